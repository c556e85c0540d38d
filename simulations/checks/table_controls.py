"""Controls for tables that a user can name: rows that teach nothing, and a box far too wide.

    rows.priors = ["fedkd.simulations.checks.table_controls:constant_rows"]
    rows.priors = ["fedkd.simulations.checks.table_controls:action_prototypes_0"]
    institutions.data = "fedkd.simulations.checks.table_controls:stretched_diabetes"

What a student learns of them, it learns of no information about where the teachers' data lie.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from fedkd.data.dataset import Dataset
from fedkd.data.tables import open_table
from fedkd.procedural.table_priors import TablePrior
from fedkd.protocol import Column, decode_rows, encode_rows
from fedkd.simulations.examiners.cartpole import ACTIONS, COLUMNS, searched_controller

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
class ActionPrototypes(TablePrior):
    """One row for each action of CartPole, each jittered a little.

    Rows are drawn uniformly; of each action the first is taken for which the controller whose
    records the teachers learn from decides on it. A test asks the teachers too.
    """

    seed: int = 0
    """Of the draw."""
    jitter: float = JITTER

    def _rows(self, count: int, columns: int, rng: torch.Generator) -> Tensor:
        centre = self.centres()[torch.arange(count) % len(ACTIONS)]
        return centre + self.jitter * torch.randn(count, columns, generator=rng)

    def centres(self) -> Tensor:
        """(A, 4) the row of each action, in [0, 1]."""
        drawn = torch.rand(1000, len(COLUMNS), generator=torch.Generator().manual_seed(self.seed))
        states = decode_rows(drawn[:, None, None], COLUMNS).numpy()
        actions = torch.from_numpy(states @ searched_controller(0) > 0).long()
        first = [int((actions == action).nonzero()[0]) for action in range(len(ACTIONS))]
        return drawn[first]


def constant_rows() -> ConstantRows:
    """The prior."""
    return ConstantRows()


def __getattr__(name: str) -> Callable[[], ActionPrototypes]:
    """``action_prototypes_N``, the prior of pair number N, by any N >= 0."""
    number = name.removeprefix("action_prototypes_")
    if number == name or not number.isdecimal():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return partial(ActionPrototypes, int(number))


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
