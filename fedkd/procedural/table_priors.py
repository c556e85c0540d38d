"""Priors of tables: rows drawn without data, from the ranges and levels of the columns alone.

A row is a sample (1, 1, D) of bytes: 0 is a column's low and 255 its high, or equal parts for its
levels. So a draw that is uniform over bytes is uniform over the range, and over the levels.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from fedkd.procedural.base import ProceduralPrior
from fedkd.procedural.drawing_primitives import Shape


class TablePrior(ProceduralPrior):
    """A prior of rows: all D values of a sample are drawn together."""

    def _render(self, count: int, shape: Shape, rng: torch.Generator) -> Tensor:
        return self._rows(count, math.prod(shape), rng).view(count, *shape)

    @abstractmethod
    def _rows(self, count: int, columns: int, rng: torch.Generator) -> Tensor:
        """(count, columns) float32; values outside [0, 1] are clamped."""


@dataclass(frozen=True)
class UniformRows(TablePrior):
    """Uniform in the range of each column, independently."""

    def _rows(self, count: int, columns: int, rng: torch.Generator) -> Tensor:
        return torch.rand(count, columns, generator=rng)


@dataclass(frozen=True)
class GaussianRows(TablePrior):
    """Normal around the middle of each range, independently; what falls outside is clamped."""

    deviation: float = 0.2
    """In ranges."""

    def _rows(self, count: int, columns: int, rng: torch.Generator) -> Tensor:
        return 0.5 + self.deviation * torch.randn(count, columns, generator=rng)


@dataclass(frozen=True)
class LatinHypercube(TablePrior):
    """A Latin hypercube of each block: every column has one value in each of its equal parts.

    Source: McKay, Beckman and Conover, Technometrics 1979.
    """

    def _rows(self, count: int, columns: int, rng: torch.Generator) -> Tensor:
        part = torch.rand(count, columns, generator=rng).argsort(0)
        return (part + torch.rand(count, columns, generator=rng)) / count


@dataclass(frozen=True)
class PairwiseCover(LatinHypercube):
    """A Latin hypercube in which two random columns cover the grid of all pairs of their parts.

    Over many batches every pair of columns is covered, and so is every pair of levels. Related:
    pairwise testing; TabKD (arXiv 2603.15481) covers pairs of learned bins.
    """

    def _rows(self, count: int, columns: int, rng: torch.Generator) -> Tensor:
        rows = super()._rows(count, columns, rng)
        parts = math.isqrt(count)
        if columns < 2 or parts < 2:
            return rows
        first, second = torch.randperm(columns, generator=rng)[:2].tolist()
        cells = torch.arange(parts * parts)
        within = torch.rand(2, len(cells), generator=rng)
        rows[: len(cells), first] = (cells // parts + within[0]) / parts
        rows[: len(cells), second] = (cells % parts + within[1]) / parts
        return rows


@dataclass(frozen=True)
class CorrelatedRows(TablePrior):
    """Normal rows with random correlations: a few hidden factors move all columns together.

    Each row is a mixture of ``factors`` normal factors with loadings that are drawn for the block.
    """

    factors: int = 3
    deviation: float = 0.25
    """In ranges."""

    def _rows(self, count: int, columns: int, rng: torch.Generator) -> Tensor:
        rows = self._mixed(count, columns, rng)
        centre = 0.25 + 0.5 * torch.rand(columns, generator=rng)
        return torch.add(centre, rows, alpha=self.deviation)

    def _mixed(self, count: int, columns: int, rng: torch.Generator) -> Tensor:
        """(count, columns), each column N(0, 1)."""
        loadings = torch.randn(self.factors + 1, columns, generator=rng)
        loadings = loadings / loadings.norm(dim=0)
        hidden = torch.randn(count, self.factors, generator=rng)
        own = torch.randn(count, columns, generator=rng)
        rows: Tensor = hidden @ loadings[:-1] + own * loadings[-1]
        return rows


@dataclass(frozen=True)
class SkewedRows(CorrelatedRows):
    """Correlated rows that lie towards one end of their ranges, as amounts and sizes often do.

    A range is as wide as its rarest values, so that most rows of a table are near one end of it.
    Normal factors are made uniform by their distribution function, and raised to a power e^g that
    is drawn for the row, g ~ N(0, 1), a little different for each column.
    """

    def _rows(self, count: int, columns: int, rng: torch.Generator) -> Tensor:
        normal = self._mixed(count, columns, rng)
        # For the row and not for the block: priors are compared by the first batch of each, and
        # a batch of large rows alone would look as if all answers to this prior were alike.
        power = torch.randn(count, 1, generator=rng) + 0.3 * torch.randn(columns, generator=rng)
        rows: Tensor = torch.special.ndtr(normal) ** power.exp()
        return rows
