"""Answers without noise: as the teacher says them, or less of it. Knows no books.

Modes ``none``, which promises nothing, and ``dp-teacher``, which promises what the teacher's
training does: all that is computed from it is covered, gradients too, without a charge. To tell
less of an answer discloses less and promises nothing more.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from fedkd.errors import NeedsError
from fedkd.models import Teacher
from fedkd.privacy import Policy
from fedkd.protocol import Guarantee, Signal

ONE_HOT_PROBABILITY = 0.9
"""Probability of a class that is all that is told, nearly; the others share the rest. With more of
it the divergence from a student that is wrong is so large that self-paced learning never gets to
him."""


@dataclass(frozen=True)
class NoiselessRelease:
    """A teacher's own answers, within a policy."""

    policy: Policy
    teacher: Teacher
    guarantee: Guarantee | None

    cost = 0

    @property
    def name(self) -> str:
        """See `ReleaseMode.name`; "" where all is told, which was so before there were others."""
        p = self.policy
        return f"labels={p.labels} top_k={p.top_k} rounding={p.rounding}" if p.reduced else ""

    @property
    def signals(self) -> frozenset[Signal]:
        """See `ReleaseMode.signals`."""
        return self.policy.signals & self.teacher.signals

    @property
    def pull_back(self) -> bool:
        """See `ReleaseMode.pull_back`."""
        return self.policy.pull_back and self.teacher.differentiable

    def ask(self, images: Tensor, signals: frozenset[Signal]) -> dict[Signal, Tensor]:
        """See `ReleaseMode.ask`."""
        said = self.teacher.ask(images, signals)
        if not self.policy.reduced:
            return said
        return {Signal.LOGITS: reduced(said[Signal.LOGITS], self.policy)}

    def pulled_back(self, images: Tensor, cotangents: Mapping[Signal, Tensor]) -> Tensor:
        """See `ReleaseMode.pulled_back`."""
        return self.teacher.pull_back(images, cotangents)

    def draw(self, images: Tensor) -> Tensor:
        """Always raises: these answers have no noise."""
        raise NeedsError(f"mode {self.policy.mode} draws no noise")

    def say(self, drawn: Tensor) -> Tensor:
        """Always raises."""
        raise NeedsError(f"mode {self.policy.mode} draws no noise")


def reduced(logits: Tensor, policy: Policy) -> Tensor:
    """(B, K) logits with what the policy leaves of them; not finite where ``logits`` are not."""
    if not bool(logits.isfinite().all()):
        return logits  # which the door does not let out
    if policy.labels:
        return one_hot(logits.argmax(1), logits.shape[1])
    if policy.top_k is not None:
        logits = top(logits, policy.top_k)
    return logits if policy.rounding is None else coarse(logits, policy.rounding)


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """(B,) labels -> (B, K) logits that tell nothing else: 0 but for the label's.

    That is of sixteenths, which no rounding on the way changes (`fedkd.protocol.quantisation`).
    """
    odds = ONE_HOT_PROBABILITY / (1 - ONE_HOT_PROBABILITY) * max(1, classes - 1)
    return F.one_hot(labels, classes).float() * (round(16 * math.log(odds)) / 16)


def top(logits: Tensor, k: int) -> Tensor:
    """(B, K) log-probabilities of the k likeliest classes; the others share evenly what is left."""
    log_p = logits.log_softmax(1)
    others = logits.shape[1] - k
    if others <= 0:
        return log_p
    ranked, order = log_p.sort(dim=1, descending=True)
    ranked[:, k:] = ranked[:, k:].logsumexp(1, keepdim=True) - torch.tensor(others).log()
    return torch.empty_like(ranked).scatter_(1, order, ranked)


def coarse(logits: Tensor, digits: int) -> Tensor:
    """(B, K) logarithms of probabilities that are rounded to so many decimal digits.

    One that is rounded to zero counts as half a unit of the last digit.
    """
    unit = 10.0**-digits
    p = (logits.double().softmax(1) / unit).round() * unit
    return p.clamp_min(unit / 2).log().float()
