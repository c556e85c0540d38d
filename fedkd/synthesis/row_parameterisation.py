"""Direct optimisation of rows: a batch of normal rows whose values are trained for a few steps."""

from dataclasses import dataclass

import torch

from fedkd.core.interfaces import Context
from fedkd.synthesis.parameterisation import Drawn
from fedkd.synthesis.pixel_and_latent_parameterisation import InvertedPixels, PixelBatch

DEVIATION = 12**-0.5
"""Of the first values: that of a uniform value in [0, 1], the unit of standardised columns."""


@dataclass(frozen=True, eq=False)
class RowBatch(PixelBatch):
    """Settings of rows that are trained themselves, and are to show no class."""

    def build(self, context: Context) -> "OptimisedRows":
        """The target."""
        return OptimisedRows(self, context)


class OptimisedRows(InvertedPixels):
    """Rows that are trained themselves; what a step has carried out of range is put back."""

    def begin(self, rng: torch.Generator) -> bool:
        """Another batch."""
        self.restart(rng)
        return True

    def restart(self, rng: torch.Generator) -> None:
        """N(1/2, 1/12) in each column, whose range is [0, 1]."""
        self.module.restart(rng, DEVIATION)

    def draw(self, count: int, rng: torch.Generator, learning: bool) -> Drawn:
        """The first ``count`` of the batch."""
        return Drawn(super().draw(count, rng, learning).images)
