"""Schema files of tables: columns with ranges or levels, and what is to be predicted.

[[columns]]
name = "age"
low = 18
high = 100
whole = true

[[columns]]
name = "ward"
levels = ["general", "intensive"]

[predict]                 # classes,
name = "outcome"
classes = ["well", "ill"]

[[predict]]               # or numbers
name = "stay"
unit = "days"
low = 0
high = 60
"""

import csv
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedkd.errors import DataError, SettingsError
from fedkd.protocol import Column, Number, check_table


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str


class _ColumnEntry(_Entry):
    low: float = 0.0
    high: float = 1.0
    whole: bool = False
    levels: tuple[str, ...] = ()


class _NumberEntry(_Entry):
    unit: str = ""
    low: float
    high: float
    error: float | None = None


class _ClassesEntry(_Entry):
    classes: tuple[str, ...] = Field(min_length=2)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    columns: tuple[_ColumnEntry, ...] = Field(min_length=1)
    predict: _ClassesEntry | tuple[_NumberEntry, ...]


@dataclass(frozen=True)
class Schema:
    """What may be known of a table without its rows."""

    columns: tuple[Column, ...]
    numbers: tuple[Number, ...]
    """That are to be predicted; empty: classes are."""
    classes: tuple[str, ...]
    target: str = ""
    """Name of the column with the class."""

    def read(self, path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
        """Rows (N, D), levels by their index, and targets: (N,) classes or (N, K) numbers.

        Raises:
            DataError: the file cannot be read, lacks a column, or has a value outside the schema.
        """
        cells = _cells(path)
        names = [column.name for column in self.columns]
        targets = [number.name for number in self.numbers] or [self.target]
        if missing := [name for name in (*names, *targets) if name not in cells]:
            raise DataError(f"{path} has no column {missing[0]!r}; mend the file or its schema")
        rows = np.stack([_values(cells[c.name], c, path) for c in self.columns], 1)
        if self.numbers:
            return rows, np.stack([_numeric(cells[name], name, path) for name in targets], 1)
        column = Column(self.target, levels=self.classes)
        return rows, _values(cells[self.target], column, path).astype(np.int64)


def read_schema(path: Path) -> Schema:
    """The schema beside a table: ``NAME.schema.toml``, or ``schema.toml`` in its folder.

    Raises:
        DataError: there is none, or it cannot be read.
        SettingsError: it is out of bounds.
    """
    for file in (path.with_name(f"{path.stem}.schema.toml"), path.with_name("schema.toml")):
        if file.is_file():
            return parse_schema(file)
    raise DataError(
        f"{path} has no schema; write {path.stem}.schema.toml beside it, see docs/tables.md"
    )


def parse_schema(file: Path) -> Schema:
    """The schema in a TOML file.

    Raises:
        DataError: it cannot be read.
        SettingsError: it is out of bounds.
    """
    try:
        found = _File.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        why = str(error)
        if isinstance(error, ValidationError):
            first = error.errors(include_url=False, include_input=False)[0]
            why = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise DataError(f"{file} is no schema of a table: {why}; see docs/tables.md") from None
    columns = tuple(Column(**each.model_dump()) for each in found.columns)
    if isinstance(found.predict, _ClassesEntry):
        schema = Schema(columns, (), found.predict.classes, found.predict.name)
    else:
        if not found.predict:
            raise DataError(f"{file} predicts nothing; name classes or numbers under predict")
        numbers = tuple(Number(**each.model_dump()) for each in found.predict)
        schema = Schema(columns, numbers, ())
    try:
        check_table(schema.columns, schema.numbers)
    except SettingsError as error:
        raise SettingsError(f"{file}: {error}") from None
    if len(set(schema.classes)) != len(schema.classes):
        raise SettingsError(f"{file} names a class twice; mend the schema")
    predicted = {number.name for number in schema.numbers} or {schema.target}
    if predicted & {column.name for column in columns}:
        raise SettingsError(f"{file} predicts a column that teachers also read; leave it out there")
    return schema


def _cells(path: Path) -> dict[str, list[Any]]:
    """The columns of a CSV or Parquet file, by name."""
    try:
        if path.suffix == ".parquet":
            from pyarrow import parquet

            found: dict[str, list[Any]] = parquet.read_table(path).to_pydict()
            return found
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except ImportError as error:
        raise SettingsError("a Parquet file needs pyarrow; install fedkd[data]") from error
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a table; give a CSV or Parquet file") from error
    return {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}


def _values(cells: Sequence[Any], column: Column, path: Path) -> NDArray[Any]:
    """Values of a column, levels by their index."""
    if not column.levels:
        return _numeric(cells, column.name, path)
    index = {level: place for place, level in enumerate(column.levels)}
    found = [index.get(str(value), -1) for value in cells]
    if -1 in found:
        raise DataError(
            f"{path}: row {found.index(-1)} has a level of {column.name!r} that the schema lacks"
        )
    return np.array(found, np.float64)


def _numeric(cells: Sequence[Any], name: str, path: Path) -> NDArray[Any]:
    values = np.empty(len(cells))
    for row, cell in enumerate(cells):
        try:
            values[row] = float(cell)
        except (TypeError, ValueError):
            values[row] = np.nan
    if not np.isfinite(values).all():
        row = int((~np.isfinite(values)).nonzero()[0][0])
        raise DataError(f"{path}: row {row} of column {name!r} is no number; fill it in")
    return values
