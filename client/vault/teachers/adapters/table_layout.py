"""What a table teacher reads and predicts, and rows in the values that models were fitted on.

A level that is a number is given as this number, as ``pandas.read_csv`` would have read it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedkd.errors import DataError
from fedkd.protocol import Column, Number
from fedkd.protocol.tables import BYTE_STEPS

Rows: TypeAlias = NDArray[np.float64]
"""(N, D) in their own units, levels by their index."""

RANDOM_PROBES = 256
"""Rows of a probe with a random value in each column."""
TRUTH = {"True": True, "False": False}


@dataclass(frozen=True)
class TableLayout:
    """Columns, and the numbers or the classes that are predicted.

    Attributes:
        columns: (D,).
        numbers: (K,) that are predicted; empty: classes are.
        class_names: (K,) in the order of the outputs; empty where numbers are predicted.
    """

    columns: tuple[Column, ...]
    numbers: tuple[Number, ...] = ()
    class_names: tuple[str, ...] = ()

    @property
    def outputs(self) -> int:
        """K."""
        return len(self.numbers or self.class_names)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(1, 1, D), of a row as a sample."""
        return 1, 1, len(self.columns)

    def numeric(self, rows: Rows) -> Rows:
        """(N, D) of numbers alone: a level that is no number is given by its index."""
        numbers = rows.copy()
        for place, column in enumerate(self.columns):
            values = level_values(column)
            if values and not isinstance(values[0], str):
                numbers[:, place] = np.asarray(values, np.float64)[_index(rows, place)]
        return numbers

    def natural(self, rows: Rows, texts: frozenset[str] = frozenset()) -> dict[str, NDArray[Any]]:
        """Each column by its name, (N,): float64, or an object for each level.

        Args:
            rows: (N, D).
            texts: columns whose levels are texts, even where they could be numbers.
        """
        return {
            column.name: self._values(rows, place, column.name in texts)
            for place, column in enumerate(self.columns)
        }

    def places(self, names: Sequence[str], source: str) -> list[int]:
        """Where the columns of a model stand in a row. The model may leave columns out.

        Raises:
            DataError: the schema lacks one.
        """
        known = {column.name: place for place, column in enumerate(self.columns)}
        if lacking := [name for name in names if name not in known]:
            raise DataError(
                f"{source} reads a column {lacking[0][:64]!r} that the schema lacks; name it there"
            )
        return [known[name] for name in names]

    def all_places(self, count: int, source: str) -> list[int]:
        """The columns of a model that names none, in the schema's order.

        Raises:
            DataError: it reads another number of columns.
        """
        if count != len(self.columns):
            raise DataError(
                f"{source} reads {count} columns and the schema has {len(self.columns)}; name "
                "those that it was fitted on, in their order"
            )
        return list(range(count))

    @cached_property
    def probe(self) -> Tensor:
        """Rows that a new teacher is tried on, (N, 1, 1, D) uint8, with every level of a column."""
        columns = len(self.columns)
        steps = torch.arange(BYTE_STEPS, dtype=torch.uint8)[:, None].expand(-1, columns)
        rng = torch.Generator().manual_seed(0)
        size = (RANDOM_PROBES, columns)
        drawn = torch.randint(0, BYTE_STEPS, size, generator=rng, dtype=torch.uint8)
        return torch.cat([steps, drawn])[:, None, None, :]

    def _values(self, rows: Rows, place: int, text: bool) -> NDArray[Any]:
        column = self.columns[place]
        if not column.levels:
            return rows[:, place]
        values = column.levels if text else level_values(column)
        if not isinstance(values[0], str):
            return np.asarray(values)[_index(rows, place)]
        found: NDArray[Any] = np.asarray(values, dtype=object)[_index(rows, place)]
        return found


def level_values(column: Column) -> list[Any]:
    """Levels of a column as whole numbers, else as numbers, truth values or texts."""
    if all(level in TRUTH for level in column.levels):
        return [TRUTH[level] for level in column.levels]
    for kind in (int, float):
        try:
            values = [kind(level) for level in column.levels]
        except ValueError:
            continue
        if all(map(math.isfinite, values)) and len(set(values)) == len(values):
            return values
    return list(column.levels)


def _index(rows: Rows, place: int) -> NDArray[np.int64]:
    return rows[:, place].astype(np.int64)
