"""Whether releases of two neighbouring inputs can be told apart more easily than is claimed.

The inputs are the worst neighbours there are, the releases come from the code that institutions
run, and the claim from the books that charge for them. Of modes pate and local-dp both are an
institution's own: what leaves its door, and what its ledger is charged. Knows no experiment.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

import torch
from torch import Tensor, nn

from fedkd.client.vault.training.dp_sgd import _Training
from fedkd.client.vault.training.supervised import DpSgdSettings
from fedkd.privacy import (
    Event,
    discrete_gaussian,
    epsilon_of_events,
    epsilon_of_rho,
    gaussian_cost,
    with_gaussian,
)
from fedkd.privacy.empirical_epsilon import Distinguished, distinguish
from fedkd.simulations.audit.audited_institution import Doors, electorate

DELTA = 0.05
"""At which claims are audited. Small deltas need more trials than anybody has: what happens once
in a hundred thousand times is not seen in ten thousand."""

PIECE = 200
"""Releases between two reports of progress."""


@dataclass(frozen=True, eq=False)
class Release:
    """A mechanism, two neighbouring inputs of it, and what is claimed of both."""

    name: str
    release: Callable[[Tensor, int], Tensor]
    """(input, n) -> (n, ...): n independent releases of that input."""
    one: Tensor
    other: Tensor
    epsilon: float
    """Claimed at ``delta``, by whoever would charge for it."""
    delta: float = DELTA


@dataclass(frozen=True)
class Finding:
    """What an audit of one release came to."""

    name: str
    claim: float
    bound: Distinguished

    @property
    def violated(self) -> bool:
        """Whether the claim is proven wrong, but for the chance that the bound admits."""
        return self.bound.epsilon > self.claim


def audit(
    of: Release, trials: int, error: float, done: Callable[[int], None] = lambda count: None
) -> Finding:
    """Attack one mechanism.

    Releases are scored along the line between the mean releases of both inputs, as it is in the
    first half of the trials; for round noise no score tells more.

    Args:
        of: the mechanism.
        trials: releases of each input, >= 4.
        error: chance that a true claim is called wrong, in (0, 1).
        done: is told of so many more releases.

    Raises:
        SettingsError: a number out of range.
    """
    one, other = (_released(of.release, side, trials, done) for side in (of.one, of.other))
    half = trials // 2
    line = one[:half].mean(0) - other[:half].mean(0)
    scores = [(side @ line).numpy() for side in (one, other)]
    return Finding(of.name, of.epsilon, distinguish(scores[0], scores[1], of.delta, error))


def _released(
    release: Callable[[Tensor, int], Tensor], side: Tensor, trials: int, done: Callable[[int], None]
) -> Tensor:
    """(trials, d) float64."""
    drawn = []
    for start in range(0, trials, PIECE):
        count = min(PIECE, trials - start)
        drawn.append(release(side, count).double().reshape(count, -1))
        done(count)
    return torch.cat(drawn)


def releases(private: DpSgdSettings | None, noise: float = 1.0) -> list[Release]:
    """Every mechanism that this project releases with.

    Args:
        private: of the training that is audited; None leaves it out.
        noise: share of the noise that is added, while all of it is claimed: below 1 is a bug on
            purpose.
    """
    made = [votes(noise), vector(noise), label(noise), logits(noise)]
    if private is not None:
        made.append(step(private, noise))
    return made


def votes(noise: float = 1.0, classes: int = 10) -> Release:
    """A histogram of votes with discrete Gaussian noise; neighbours differ in one vote."""
    deviation, sensitivity_squared = 2, 2

    def release(histogram: Tensor, count: int) -> Tensor:
        hidden = discrete_gaussian((count, classes), _exactly(noise) * deviation)
        return histogram + hidden

    one = torch.zeros(classes, dtype=torch.int64)
    one[0], one[1] = 10, 9
    other = one.clone()
    other[0], other[1] = 9, 10
    # Twice the rho of sensitivity 1 is that of the square root of 2, which is no fraction.
    spent = gaussian_cost(1, deviation, rows=sensitivity_squared)
    claim = epsilon_of_rho(spent, DELTA)
    return Release("discrete Gaussian on votes", release, one, other, claim)


def vector(noise: float = 1.0, length: int = 10) -> Release:
    """A vector clipped to norm 1 with continuous noise; neighbours: one vector, or none."""
    deviation = 1.5

    def release(values: Tensor, count: int) -> Tensor:
        return with_gaussian(values.expand(count, length), noise * deviation)

    one = torch.full((length,), length**-0.5)
    claim = epsilon_of_events([Event(deviation, 1.0, 1)], DELTA)
    return Release("continuous Gaussian on a vector", release, one, torch.zeros(length), claim)


def label(noise: float = 1.0) -> Release:
    """An elected label, through the door of an institution in mode ``pate``; a vote is moved."""
    # A tie against a narrow win: of all elections the one that a vote decides most clearly. A
    # clearer win would be lost too seldom to be counted.
    doors = Doors("pate", Fraction(3, 2), placed=electorate)
    one, other = torch.tensor([12, 10]), torch.tensor([11, 11])
    return _through("label of mode pate", doors, noise, one, other)


def logits(noise: float = 1.0) -> Release:
    """Logits, through the door of an institution in mode ``local-dp``; opposite teachers."""
    # Far outside the ball, so that clipping is at work.
    one = torch.tensor([100.0, 0.0])
    return _through("logits of mode local-dp", Doors("local-dp", Fraction(2)), noise, one, -one)


def _through(name: str, doors: Doors, noise: float, one: Tensor, other: Tensor) -> Release:
    """What leaves with a share of the noise, against what is charged for all of it."""
    claim = epsilon_of_rho(doors.charge(one), DELTA)
    less = replace(doors, noise=_exactly(noise) * doors.noise)
    return Release(name, less.told, one, other, claim)


def step(private: DpSgdSettings, noise: float = 1.0) -> Release:
    """A step of DP-SGD that takes its whole sample; neighbours: one image, or none."""
    learner = nn.Linear(4, 2)
    training = _Training(learner, private)
    optimiser = training._optimiser
    claimed = float(optimiser.noise_multiplier)
    optimiser.noise_multiplier = claimed * noise
    labels = torch.zeros(1, dtype=torch.int64)

    def release(images: Tensor, count: int) -> Tensor:
        gradients = []
        for _ in range(count):
            # Undecided at every step: a network that is right already learns nothing of an image.
            with torch.no_grad():
                for parameter in learner.parameters():
                    parameter.zero_()
            training.step(images, labels[: len(images)])
            gradients.append(
                torch.cat([p.grad.flatten() for p in learner.parameters() if p.grad is not None])
            )
        return torch.stack(gradients)

    one = torch.full((1, 4), 100.0)  # far beyond the bound, so that clipping is at work
    claim = epsilon_of_events([Event(claimed, 1.0, 1)], DELTA)
    return Release("one step of DP-SGD", release, one, one[:0], claim)


def _exactly(share: float) -> Fraction:
    return Fraction(share).limit_denominator(1000)
