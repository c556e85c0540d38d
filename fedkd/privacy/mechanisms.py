"""DP mechanisms for answers: noisy argmax of votes (GNMax), clipped Gaussian of logits.

A mechanism is a value that is called with exact values and returns what may be released. Its noise
comes from the operating system and has no seed. How long a call takes depends on the noise that is
drawn: the time is not covered by any guarantee.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import torch
from torch import Tensor

from fedkd.errors import SettingsError
from fedkd.privacy.accounting import squared_cost
from fedkd.privacy.noise import check_deviation, discrete_gaussian

GRID_STEPS = 4096
"""Steps of the grid from zero to the largest norm of a clipped answer."""


class Mechanism(Protocol):
    """Adds noise to exact values so that they may be released."""

    @property
    def deviation(self) -> Fraction:
        """Standard deviation of the noise on every coordinate."""

    @property
    def squared_sensitivity(self) -> Fraction:
        """D^2: the most by which a row may move between neighbours, in the unit of `deviation`."""

    @property
    def cost(self) -> int:
        """Micro-rho of one row."""

    def __call__(self, values: Tensor, /) -> Tensor:
        """A private version of values, row by row."""


@dataclass(frozen=True)
class NoisyArgmax:
    """Gaussian noisy max (GNMax; Papernot et al., 2018), with the discrete Gaussian.

    Guarantees:
        A label is D^2 / (2 s^2)-zCDP under neighbours whose histograms of votes differ by at most
        D in L2 norm. Where every image has trained one teacher and no other, adding or removing an
        image changes one vote: a count falls by one, another rises by one, D^2 = 2. Replacing an
        image changes two teachers, who may change from one class to the same other: D^2 = 8. The
        former is what is charged. The noise does not depend on the votes, nor does the cost.

    Raises:
        SettingsError: a deviation that is not above 0, or above 2^40.
    """

    deviation: Fraction
    """s, in votes."""

    squared_sensitivity = Fraction(2)
    """Under adding or removing one image."""
    replacing = Fraction(8)
    """D^2 under replacing one image; stated here, and charged nowhere."""

    def __post_init__(self) -> None:
        _above_zero(deviation=self.deviation)
        check_deviation(self.deviation)

    @property
    def cost(self) -> int:
        """Micro-rho of one label."""
        return squared_cost(self.squared_sensitivity, self.deviation)

    def __call__(self, votes: Tensor) -> Tensor:
        """(B, K) int64 votes -> (B,) int64 labels."""
        noisy: Tensor = votes + discrete_gaussian(votes.shape, self.deviation)
        return noisy.argmax(1)


@dataclass(frozen=True)
class ClippedGaussian:
    """Centred logits, clipped to a ball and rounded to a grid, with discrete Gaussian noise.

    Guarantees:
        A row is D^2 / (2 s^2)-zCDP whatever two data sets or teachers it comes from, D = 2 C the
        diameter of the ball: no stability of any training is assumed. So it protects the whole
        data set at once, and thereby each image in it; that is why so much noise is needed.
        Coordinates are rounded towards zero, so that no norm grows, and the norm of what was
        rounded is compared in whole numbers. Values that are not finite count as zero.

    Raises:
        SettingsError: a number that is not above 0, or noise of more than 2^40 steps of the grid.
    """

    clipping: Fraction
    """C, the largest L2 norm of a row of centred logits."""
    deviation: Fraction
    """s, in logits."""

    def __post_init__(self) -> None:
        _above_zero(clipping=self.clipping, deviation=self.deviation)
        check_deviation(self.deviation / self.step)

    @property
    def squared_sensitivity(self) -> Fraction:
        """(2 C)^2."""
        return 4 * self.clipping**2

    @property
    def cost(self) -> int:
        """Micro-rho of one row."""
        return squared_cost(self.squared_sensitivity, self.deviation)

    @property
    def step(self) -> Fraction:
        """Of the grid, in logits."""
        return self.clipping / GRID_STEPS

    def clipped(self, logits: Tensor) -> Tensor:
        """(B, K) logits -> (B, K) int64 steps of the grid, rows of norm `GRID_STEPS` at most."""
        centred = logits.double().nan_to_num(0.0, 0.0, 0.0)
        centred = centred - centred.mean(1, keepdim=True)
        norm = torch.linalg.vector_norm(centred, dim=1, keepdim=True)
        shrunk = centred * (float(self.clipping) / norm.clamp_min(float(self.clipping)))
        steps = (shrunk / float(self.step)).trunc()
        # Floating point may leave a row a little outside.
        while bool((outside := steps.long().square().sum(1) > GRID_STEPS**2).any()):
            steps[outside] = (steps[outside] * (1 - 1e-6)).trunc()
        exact: Tensor = steps.long()
        return exact

    def __call__(self, logits: Tensor) -> Tensor:
        """(B, K) logits -> (B, K) int64 noisy grid steps; see `to_logits`."""
        steps = self.clipped(logits)
        return steps + discrete_gaussian(steps.shape, self.deviation / self.step)

    def to_logits(self, steps: Tensor) -> Tensor:
        """Steps of the grid as logits, float32."""
        return (steps.double() * float(self.step)).float()


@dataclass(frozen=True)
class RangedGaussian:
    """Numbers as shares of their stated ranges, clipped to [0, 1], with discrete Gaussian noise.

    Guarantees:
        A row of K numbers is D^2 / (2 s^2)-zCDP whatever two data sets or teachers it comes from,
        D^2 = K, since none moves by more than its range: the range is the clipping, and has to be
        chosen without looking at the data. Like `ClippedGaussian` it protects the whole data set.
        Shares are rounded to a grid, whose ends are 0 and 1. Values that are not finite count as
        the middle.

    Raises:
        SettingsError: a number that is not above 0, or noise of more than 2^40 steps of the grid.
    """

    outputs: int
    """K."""
    deviation: Fraction
    """s, as a share of the range."""

    def __post_init__(self) -> None:
        _above_zero(outputs=Fraction(self.outputs), deviation=self.deviation)
        check_deviation(self.deviation * GRID_STEPS)

    @property
    def squared_sensitivity(self) -> Fraction:
        """K."""
        return Fraction(self.outputs)

    @property
    def cost(self) -> int:
        """Micro-rho of one row."""
        return squared_cost(self.squared_sensitivity, self.deviation)

    def clipped(self, shares: Tensor) -> Tensor:
        """(B, K) shares of ranges -> (B, K) int64 steps of the grid, 0 to `GRID_STEPS`."""
        inside = shares.double().nan_to_num(0.5, 0.5, 0.5).clamp(0.0, 1.0)
        exact: Tensor = (inside * GRID_STEPS).round().long()
        return exact

    def __call__(self, shares: Tensor) -> Tensor:
        """(B, K) shares of ranges -> (B, K) int64 noisy grid steps; see `to_logits`."""
        steps = self.clipped(shares)
        return steps + discrete_gaussian(steps.shape, self.deviation * GRID_STEPS)

    def to_logits(self, steps: Tensor) -> Tensor:
        """Steps of the grid as shares, float32; noise may take them outside [0, 1]."""
        return (steps.double() / GRID_STEPS).float()


def _above_zero(**numbers: Fraction) -> None:
    for name, number in numbers.items():
        if number <= 0:
            raise SettingsError(f"{name} {number}; expected above 0")
