"""Tables with a schema, opened from scikit-learn or from CSV and Parquet files.

    table:diabetes         442 patients, a number to predict; ships inside scikit-learn
    table:breast-cancer    569 tumours, two classes; likewise
    table:wine             178 wines, three classes; likewise
    table:friedman         1,000 made rows: five columns that matter and a hundred that do not
    table:PATH             a CSV or Parquet file, and beside it PATH.schema.toml or schema.toml

A schema says what may be known of the columns without the data: names, ranges, levels, and what is
to be predicted. See docs/tables.md.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from fedkd.data.dataset import Dataset
from fedkd.data.table_schema import Schema, read_schema
from fedkd.errors import DataError, SettingsError
from fedkd.protocol import Column, Number, check_table, encode_numbers, encode_rows

TEST_SHARE = 4
"""One row of so many is a test row; the split is stratified where there are classes."""
SPLIT_SEED = 42
"""Of the split into training and test rows, which is always the same."""

Array: TypeAlias = NDArray[Any]


def open_table(name: str, root: str | None = None) -> Dataset:
    """A table by its name, ``table:NAME`` or ``table:PATH``, split into training and test rows.

    Args:
        name: see the module.
        root: folder to which a path is relative; None for the current folder.

    Raises:
        SettingsError: there is none of that name, or its schema is out of bounds.
        DataError: the file or its schema cannot be read, or a row has a level that the schema
            lacks. A value outside a column's range counts as the end of the range.
    """
    rest = name.partition(":")[2]
    if rest in BUILT_IN:
        rows, targets, schema = BUILT_IN[rest]()
    else:
        path = Path(root or "", rest)
        if not path.is_file():
            raise SettingsError(
                f"unknown {name!r}; choose one of {', '.join(BUILT_IN)}, or give the path of a CSV "
                "or Parquet file"
            )
        schema = read_schema(path)
        rows, targets = schema.read(path)
    check_table(schema.columns, schema.numbers)
    return _dataset(name, rows, targets, schema)


def _dataset(name: str, rows: Array, targets: Array, schema: Schema) -> Dataset:
    """Split rows (N, D) and targets, (N,) classes or (N, K) numbers, and encode both."""
    from sklearn.model_selection import train_test_split

    if len(rows) < 2 * TEST_SHARE:
        raise DataError(f"{name}: {len(rows)} rows, expected {2 * TEST_SHARE} or more")
    try:
        train, test = train_test_split(
            np.arange(len(rows)),
            test_size=len(rows) // TEST_SHARE,
            random_state=SPLIT_SEED,
            stratify=None if schema.numbers else targets,
        )
    except ValueError as error:
        raise DataError(
            f"{name}: training and test rows need 2 or more rows of every class that occurs, and "
            "no more classes than test rows; bring more data"
        ) from error
    samples = encode_rows(torch.tensor(rows, dtype=torch.float64), schema.columns)
    truth = (
        encode_numbers(torch.tensor(targets, dtype=torch.float64), schema.numbers)
        if schema.numbers
        else torch.tensor(targets, dtype=torch.int64)
    )
    outputs = len(schema.numbers or schema.classes)
    return Dataset(
        name,
        outputs,
        samples[train],
        truth[train],
        samples[test],
        truth[test],
        schema.columns,
        schema.numbers,
        schema.classes,
    )


def ranged_columns(names: list[str], rows: Array) -> tuple[Column, ...]:
    """Numeric columns whose ranges are those of the rows; whole where all values are."""
    whole = (rows == rows.round()).all(0)
    low, high = rows.min(0), rows.max(0)
    return tuple(
        Column(name, float(a), float(b), bool(w))
        for name, a, b, w in zip(names, low, high, whole, strict=True)
    )


def _diabetes() -> tuple[Array, Array, Schema]:
    from sklearn.datasets import load_diabetes

    found = load_diabetes(scaled=False)
    columns = list(ranged_columns(list(found.feature_names), found.data))
    columns[1] = Column("sex", levels=("1", "2"))
    rows = found.data.copy()
    rows[:, 1] -= 1
    number = Number("progression", "points after one year", 0.0, 350.0)
    return rows, found.target[:, None], Schema(tuple(columns), (number,), ())


def _breast_cancer() -> tuple[Array, Array, Schema]:
    from sklearn.datasets import load_breast_cancer

    return _classes(load_breast_cancer())


def _wine() -> tuple[Array, Array, Schema]:
    from sklearn.datasets import load_wine

    return _classes(load_wine())


def _classes(found: Any) -> tuple[Array, Array, Schema]:
    """A table of scikit-learn's with classes."""
    columns = ranged_columns([str(name) for name in found.feature_names], found.data)
    return found.data, found.target, Schema(columns, (), tuple(map(str, found.target_names)))


def _friedman() -> tuple[Array, Array, Schema]:
    """Friedman's first function (1991) with 100 columns that do not matter."""
    from sklearn.datasets import make_friedman1

    rows, target = make_friedman1(1_000, 105, noise=1.0, random_state=0)
    columns = tuple(Column(f"x{place}") for place in range(rows.shape[1]))
    return rows, target[:, None], Schema(columns, (Number("y", "", -5.0, 35.0),), ())


BUILT_IN: dict[str, Callable[[], tuple[Array, Array, Schema]]] = {
    "diabetes": _diabetes,
    "breast-cancer": _breast_cancer,
    "wine": _wine,
    "friedman": _friedman,
}
