"""Tables: columns of a row, numbers that a teacher predicts, and rows as values in [0, 1].

A row of D columns is a sample of shape (1, 1, D): one value in [0, 1] for each column. As a byte it
has 256 steps from the column's low to its high, or 256 / L bytes for each of L levels. So bank,
recipes, ledger and budgets treat rows as they treat images.

Ranges and levels are disclosures: they stand in the owner's file and on the institution's card.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedkd.errors import DataError, SettingsError

MAX_COLUMNS = 4096
"""Columns of a table."""
MAX_LEVELS = 256
"""Levels of a column: a byte tells no more apart."""
MAX_NUMBERS = 1000
"""Numbers that a teacher predicts."""
MAX_TEXT = 64
"""Characters of a name, a level or a unit."""
BYTE_STEPS = 256
"""Values that a column has where a row travels as bytes."""
MIN_SPAN, MAX_END = 1e-100, 1e100
"""Least span of a range, and the furthest end from 0: far beyond any unit, and safe to compute
with and to draw."""
MIN_RELATIVE_SPAN = 1e-13
"""Least span of a range, as a share of its further end: floats tell `BYTE_STEPS` values apart."""
_RANGE = (
    f"expected ends within {MAX_END:g} of 0, and a span of at least {MIN_SPAN:g} and "
    f"{MIN_RELATIVE_SPAN:g} of the further end"
)


@dataclass(frozen=True)
class Column:
    """A column of a table: numeric from low to high, or one of some levels.

    Attributes:
        name: each different.
        low: least value; of levels 0.
        high: greatest value, above ``low``; of levels their number less 1.
        whole: whether values are whole numbers.
        levels: names of the levels in their order; empty: the column is numeric.
    """

    name: str
    low: float = 0.0
    high: float = 1.0
    whole: bool = False
    levels: tuple[str, ...] = ()

    @property
    def step(self) -> float:
        """Distance of two neighbouring values in a row of bytes, in the column's unit."""
        return 1.0 if self.levels else (self.high - self.low) / (BYTE_STEPS - 1)


@dataclass(frozen=True)
class Number:
    """A number that a teacher predicts.

    Attributes:
        name: each different.
        unit: for people; may be empty.
        low: least prediction, to which answers are clipped.
        high: greatest prediction, above ``low``.
        error: root mean squared error on the institution's own test data, in the unit: a
            disclosure, made only where the owner says so; None: not told.
    """

    name: str
    unit: str = ""
    low: float = 0.0
    high: float = 1.0
    error: float | None = None


def encode_rows(rows: Tensor, columns: Sequence[Column]) -> Tensor:
    """Rows in their own units as values in [0, 1]; what is outside a column's range is clipped.

    Args:
        rows: (N, D) float64; of a column with levels the index of the level.
        columns: (D,).

    Returns:
        (N, 1, 1, D) float32.
    """
    low, span, levels = _ranges(columns)
    numeric = (rows - low) / span
    level = ((rows + 0.5) / levels * BYTE_STEPS - 0.5) / (BYTE_STEPS - 1)
    unit = torch.where(levels > 0, level, numeric).clamp(0.0, 1.0)
    return unit.float()[:, None, None, :]


def decode_rows(samples: Tensor, columns: Sequence[Column]) -> Tensor:
    """The reverse of `encode_rows`: (N, 1, 1, D), uint8 or float in [0, 1] -> (N, D) float64.

    Whole columns are rounded; a column with levels gives the index of the level.
    """
    low, span, levels = _ranges(columns)
    unit = samples.flatten(1).double()
    if samples.dtype == torch.uint8:
        unit = unit / (BYTE_STEPS - 1)
    level = level_index(unit, levels)
    numeric = low + unit * span
    whole = torch.tensor([column.whole for column in columns])
    numeric = torch.where(whole, numeric.round(), numeric)
    return torch.where(levels > 0, level, numeric)


def level_index(unit: Tensor, levels: Tensor) -> Tensor:
    """Index of the level for values in [0, 1], of columns with so many levels; as floats."""
    share = (unit * (BYTE_STEPS - 1) + 0.5) / BYTE_STEPS
    return torch.minimum((share * levels).floor(), levels - 1)


def encode_numbers(values: Tensor, numbers: Sequence[Number]) -> Tensor:
    """(N, K) in their own units -> (N, K) float32 in [0, 1], clipped to the stated ranges."""
    low = torch.tensor([each.low for each in numbers], dtype=torch.float64)
    span = torch.tensor([each.high - each.low for each in numbers], dtype=torch.float64)
    return ((values.double() - low) / span).clamp(0.0, 1.0).float()


def decode_numbers(values: Tensor, numbers: Sequence[Number]) -> Tensor:
    """The reverse of `encode_numbers`: (N, K) -> (N, K) float64 in their own units."""
    low = torch.tensor([each.low for each in numbers], dtype=torch.float64)
    span = torch.tensor([each.high - each.low for each in numbers], dtype=torch.float64)
    return low + values.double() * span


def columns_violation(columns: Sequence[Column]) -> str | None:
    """The first thing that is out of bounds, in one line that repeats no text of the columns."""
    if len(columns) > MAX_COLUMNS:
        return f"a table of {len(columns)} columns, expected at most {MAX_COLUMNS}"
    if len({column.name for column in columns}) != len(columns):
        return "a table with two columns of one name"
    for place, column in enumerate(columns):
        if why := _column_violation(column):
            return f"column {place}: {why}"
    return None


def _column_violation(column: Column) -> str | None:
    if not _is_text(column.name):
        return f"a name must be 1 to {MAX_TEXT} printable characters"
    if column.levels:
        if not 2 <= len(column.levels) <= MAX_LEVELS:
            return f"{len(column.levels)} levels, expected 2 to {MAX_LEVELS}"
        if len(set(column.levels)) != len(column.levels):
            return "two levels of one name"
        if not all(_is_text(level) for level in column.levels):
            return f"levels must be 1 to {MAX_TEXT} printable characters"
    elif not _is_range(column.low, column.high):
        return f"a range from {column.low} to {column.high}, {_RANGE}"
    elif column.whole and math.ceil(column.low) > math.floor(column.high):
        return f"no whole number from {column.low} to {column.high}"
    return None


def numbers_violation(numbers: Sequence[Number]) -> str | None:
    """The first thing that is out of bounds, in one line that repeats no text of the numbers."""
    if len(numbers) > MAX_NUMBERS:
        return f"a teacher of {len(numbers)} numbers, expected at most {MAX_NUMBERS}"
    if len({number.name for number in numbers}) != len(numbers):
        return "a teacher with two numbers of one name"
    for place, number in enumerate(numbers):
        if not _is_text(number.name) or (number.unit and not _is_text(number.unit)):
            return f"number {place}: name and unit must be up to {MAX_TEXT} printable characters"
        if not _is_range(number.low, number.high):
            return f"number {place}: a range from {number.low} to {number.high}, {_RANGE}"
        if number.error is not None and not 0 < number.error < math.inf:
            return f"number {place}: an error of {number.error}, expected one above 0"
    return None


def check_table(columns: Sequence[Column], numbers: Sequence[Number] = ()) -> None:
    """Check what an owner or a data set says of a table.

    Raises:
        SettingsError: something is out of bounds.
    """
    if why := columns_violation(columns) or numbers_violation(numbers):
        raise SettingsError(f"{why}; mend the schema")


def _is_text(text: str) -> bool:
    return 0 < len(text) <= MAX_TEXT and text.isprintable()


def _is_range(low: float, high: float) -> bool:
    furthest = max(abs(low), abs(high))
    narrowest = max(MIN_SPAN, MIN_RELATIVE_SPAN * furthest)
    # NaN compares as False, at either end.
    return abs(low) <= MAX_END and abs(high) <= MAX_END and high - low >= narrowest


def _ranges(columns: Sequence[Column]) -> tuple[Tensor, Tensor, Tensor]:
    """Low, span and number of levels (0: numeric) of each column, (D,) float64."""
    low = torch.tensor([column.low for column in columns], dtype=torch.float64)
    span = torch.tensor([column.high - column.low for column in columns], dtype=torch.float64)
    levels = torch.tensor([len(column.levels) for column in columns], dtype=torch.float64)
    return low, span, levels


def recorded_columns(domain: Mapping[str, Any]) -> tuple[Column, ...]:
    """The columns of a table, from the domain in a result or in a student's file.

    Raises:
        DataError: they are malformed.
    """
    try:
        return tuple(
            Column(
                str(each["name"]),
                float(each["low"]),
                float(each["high"]),
                bool(each["whole"]),
                tuple(map(str, each["levels"])),
            )
            for each in domain["columns"]
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"the recorded columns are malformed: {error!r}") from None


def recorded_numbers(task: Mapping[str, Any]) -> tuple[Number, ...]:
    """The numbers that are predicted, from the task in a result or in a student's file.

    Raises:
        DataError: they are malformed.
    """
    try:
        return tuple(
            Number(str(each["name"]), str(each["unit"]), float(each["low"]), float(each["high"]))
            for each in task["numbers"]
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"the recorded numbers are malformed: {error!r}") from None
