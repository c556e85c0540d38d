"""Audit release mechanisms: are releases of neighbouring inputs as close as claimed?

The inputs are the worst neighbours, the releases come from the code that institutions run, and the
claimed epsilon from what is charged for them. Of modes pate and local-dp both are an institution's
own: what passes its release gate, and what its ledger is charged.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

import torch
from torch import Tensor, nn

from fedkd.client.vault.training.dp_sgd import DpSgdTraining
from fedkd.client.vault.training.settings import DpSgdSettings
from fedkd.privacy import (
    Event,
    discrete_gaussian,
    epsilon_of_events,
    epsilon_of_rho,
    gaussian_cost,
    with_gaussian_noise,
)
from fedkd.privacy.empirical_epsilon import Distinguished, distinguish
from fedkd.simulations.audit.audited_institution import AuditedInstitution, pate_ensemble_of_votes

DELTA = 0.05
"""Delta of the audited claims. Small deltas need far more trials: what happens once in a hundred
thousand times is not seen in ten thousand."""

CHUNK = 200
"""Releases between two reports of progress."""


@dataclass(frozen=True, eq=False)
class AuditedMechanism:
    """A mechanism, two neighbouring inputs, and the claimed epsilon."""

    name: str
    release: Callable[[Tensor, int], Tensor]
    """(input, n) -> (n, ...): n independent releases of that input."""
    first: Tensor
    second: Tensor
    epsilon: float
    """Claimed at ``delta``: what a release is charged."""
    delta: float = DELTA


@dataclass(frozen=True)
class Finding:
    """Result of the audit of one mechanism."""

    name: str
    claim: float
    bound: Distinguished

    @property
    def violated(self) -> bool:
        """Whether the claim is refuted, up to the error that the bound allows."""
        return self.bound.epsilon > self.claim


def audit_mechanism(
    of: AuditedMechanism,
    trials: int,
    error: float,
    on_progress: Callable[[int], None] = lambda count: None,
) -> Finding:
    """Attack one mechanism.

    The score of a release is its projection on the line between the mean releases of both inputs,
    estimated from the first half of the trials; for isotropic noise no score is better.

    Args:
        of: the mechanism.
        trials: releases of each input, >= 4.
        error: probability that a true claim is refuted, in (0, 1).
        on_progress: called with the number of further releases.

    Raises:
        SettingsError: a number out of range.
    """
    first, second = (
        _draw_releases(of.release, secret, trials, on_progress) for secret in (of.first, of.second)
    )
    half = trials // 2
    line = first[:half].mean(0) - second[:half].mean(0)
    scores = [(secret @ line).numpy() for secret in (first, second)]
    return Finding(of.name, of.epsilon, distinguish(scores[0], scores[1], of.delta, error))


def _draw_releases(
    release: Callable[[Tensor, int], Tensor],
    secret: Tensor,
    trials: int,
    on_progress: Callable[[int], None],
) -> Tensor:
    """(trials, d) float64."""
    chunks = []
    for start in range(0, trials, CHUNK):
        count = min(CHUNK, trials - start)
        chunks.append(release(secret, count).double().reshape(count, -1))
        on_progress(count)
    return torch.cat(chunks)


def audited_mechanisms(private: DpSgdSettings | None, noise: float = 1.0) -> list[AuditedMechanism]:
    """All mechanisms by which this project releases anything.

    Args:
        private: settings of the DP-SGD step; None leaves it out.
        noise: share of the claimed noise that is added: below 1 is a planted bug.
    """
    mechanisms = [
        noisy_votes(noise),
        noisy_vector(noise),
        pate_label(noise),
        local_dp_logits(noise),
    ]
    if private is not None:
        mechanisms.append(dp_sgd_step(private, noise))
    return mechanisms


def noisy_votes(noise: float = 1.0, classes: int = 10) -> AuditedMechanism:
    """A histogram of votes with discrete Gaussian noise; neighbours differ in one vote."""
    deviation, sensitivity_squared = 2, 2

    def release(histogram: Tensor, count: int) -> Tensor:
        secret = discrete_gaussian((count, classes), _as_fraction(noise) * deviation)
        return histogram + secret

    first = torch.zeros(classes, dtype=torch.int64)
    first[0], first[1] = 10, 9
    second = first.clone()
    second[0], second[1] = 9, 10
    # Twice the rho of sensitivity 1 is that of the square root of 2, which is no fraction.
    cost = gaussian_cost(1, deviation, rows=sensitivity_squared)
    claim = epsilon_of_rho(cost, DELTA)
    return AuditedMechanism("discrete Gaussian on votes", release, first, second, claim)


def noisy_vector(noise: float = 1.0, length: int = 10) -> AuditedMechanism:
    """A vector clipped to norm 1 with continuous noise; neighbours: one vector, or none."""
    deviation = 1.5

    def release(values: Tensor, count: int) -> Tensor:
        return with_gaussian_noise(values.expand(count, length), noise * deviation)

    first = torch.full((length,), length**-0.5)
    claim = epsilon_of_events([Event(deviation, 1.0, 1)], DELTA)
    return AuditedMechanism(
        "continuous Gaussian on a vector", release, first, torch.zeros(length), claim
    )


def pate_label(noise: float = 1.0) -> AuditedMechanism:
    """A label from an institution in mode ``pate``; neighbours differ in one vote."""
    # A tie against a narrow win: the votes that one vote decides most clearly. A clearer win
    # would be lost too seldom to be counted.
    institution = AuditedInstitution("pate", Fraction(3, 2), make_teacher=pate_ensemble_of_votes)
    first, second = torch.tensor([12, 10]), torch.tensor([11, 11])
    return _through_release_gate("label of mode pate", institution, noise, first, second)


def local_dp_logits(noise: float = 1.0) -> AuditedMechanism:
    """Logits from an institution in mode ``local-dp``; neighbours are opposite teachers."""
    # Far outside the ball, so that clipping is at work.
    first = torch.tensor([100.0, 0.0])
    return _through_release_gate(
        "logits of mode local-dp", AuditedInstitution("local-dp", Fraction(2)), noise, first, -first
    )


def _through_release_gate(
    name: str, institution: AuditedInstitution, noise: float, first: Tensor, second: Tensor
) -> AuditedMechanism:
    """Release with a share of the noise, against the cost that is charged for all of it."""
    claim = epsilon_of_rho(institution.charge(first), DELTA)
    weakened = replace(institution, noise=_as_fraction(noise) * institution.noise)
    return AuditedMechanism(name, weakened.released, first, second, claim)


def dp_sgd_step(private: DpSgdSettings, noise: float = 1.0) -> AuditedMechanism:
    """A step of DP-SGD that takes its whole sample; neighbours: one image, or none."""
    learner = nn.Linear(4, 2)
    training = DpSgdTraining(learner, private)
    optimiser = training._optimiser
    claimed = float(optimiser.noise_multiplier)
    optimiser.noise_multiplier = claimed * noise
    labels = torch.zeros(1, dtype=torch.int64)

    def release(images: Tensor, count: int) -> Tensor:
        gradients = []
        for _ in range(count):
            # Zero weights at every step: a network that is right learns nothing from an image.
            with torch.no_grad():
                for parameter in learner.parameters():
                    parameter.zero_()
            training.step(images, labels[: len(images)])
            gradients.append(
                torch.cat([p.grad.flatten() for p in learner.parameters() if p.grad is not None])
            )
        return torch.stack(gradients)

    first = torch.full((1, 4), 100.0)  # far beyond the bound, so that clipping is at work
    claim = epsilon_of_events([Event(claimed, 1.0, 1)], DELTA)
    return AuditedMechanism("one step of DP-SGD", release, first, first[:0], claim)


def _as_fraction(share: float) -> Fraction:
    return Fraction(share).limit_denominator(1000)
