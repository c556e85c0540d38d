"""Controls for tables that a user can name: rows that teach nothing, and a box far too wide.

    rows.priors = ["fedkd.simulations.checks.table_controls:constant_rows"]
    rows.priors = ["fedkd.simulations.checks.table_controls:two_prototypes"]
    institutions.data = "fedkd.simulations.checks.table_controls:stretched_diabetes"

What a student learns of them, it learns of no information about where the teachers' data lie.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedkd.data.dataset import Dataset
from fedkd.data.tables import open_table
from fedkd.procedural.table_priors import TablePrior
from fedkd.protocol import Column, decode_rows, encode_rows

STRETCH = 10.0
"""How many times too wide the ranges are."""
JITTER = 0.02
"""Deviation of the rows around a prototype, in ranges."""


@dataclass(frozen=True)
class ConstantRows(TablePrior):
    """The middle of every range, again and again: one question, since none is asked twice."""

    def _rows(self, count: int, columns: int, rng: torch.Generator) -> Tensor:
        return torch.full((count, columns), 0.5)


@dataclass(frozen=True)
class TwoPrototypes(TablePrior):
    """Two rows that were drawn uniformly once, each jittered a little."""

    seed: int = 0

    def _rows(self, count: int, columns: int, rng: torch.Generator) -> Tensor:
        centres = torch.rand(2, columns, generator=torch.Generator().manual_seed(self.seed))
        centre = centres[torch.arange(count) % 2]
        return centre + JITTER * torch.randn(count, columns, generator=rng)


def constant_rows() -> ConstantRows:
    """The prior."""
    return ConstantRows()


def two_prototypes() -> TwoPrototypes:
    """The prior."""
    return TwoPrototypes()


def stretched_diabetes(root: str | None = None) -> Dataset:
    """``table:diabetes`` behind a schema whose numeric ranges are ten times as wide.

    Args:
        root: unused.
    """
    data = open_table("table:diabetes", root)
    columns = tuple(map(stretched, data.columns))

    def again(samples: Tensor) -> Tensor:
        return encode_rows(decode_rows(samples, data.columns), columns)

    return replace(
        data,
        name="stretched diabetes",
        train_images=again(data.train_images),
        test_images=again(data.test_images),
        columns=columns,
    )


def stretched(column: Column) -> Column:
    """The column with a range ten times as wide around the same middle; levels stay."""
    if column.levels:
        return column
    middle, half = (column.low + column.high) / 2, STRETCH * (column.high - column.low) / 2
    return replace(column, low=middle - half, high=middle + half)
