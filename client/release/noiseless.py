"""Release modes without noise, ``none`` and ``dp-teacher``: exact or coarsened answers.

``none`` has no guarantee. ``dp-teacher`` has that of the teacher's training: by post-processing it
covers all that is computed from the teacher, gradients too, without a charge. To coarsen an answer
(labels, top k, rounding) discloses less and guarantees nothing more.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from fedkd.errors import NeedsError
from fedkd.models import Teacher, by_batch_statistics
from fedkd.privacy import Policy
from fedkd.protocol import Guarantee, Signal

ONE_HOT_PROBABILITY = 0.9
"""Probability of the class where only the class is released; the others share the rest. With a
higher one, a wrong student's divergence is so large that self-paced learning never takes the
sample."""


@dataclass(frozen=True)
class NoiselessRelease:
    """Releases a teacher's own answers, coarsened as the policy says."""

    policy: Policy
    teacher: Teacher
    guarantee: Guarantee | None
    groups: tuple[slice, ...] = ()
    """Outputs of each of several tasks; none: there is one."""

    cost = 0

    @property
    def name(self) -> str:
        """See `ReleaseMode.name`; "" for exact answers, as in ledgers of earlier versions."""
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

    @property
    def batch_statistics(self) -> bool:
        """See `ReleaseMode.batch_statistics`."""
        return self.policy.batch_statistics and self._batch_teacher is not None

    @cached_property
    def _batch_teacher(self) -> Teacher | None:
        """The teacher whose batch norm goes by each batch; None where it has none."""
        return by_batch_statistics(self.teacher)

    def _teacher_for(self, batch_statistics: bool) -> Teacher:
        if not batch_statistics:
            return self.teacher
        if self._batch_teacher is None:
            raise NeedsError("this teacher has no batch norm")
        return self._batch_teacher

    def ask(
        self, images: Tensor, signals: frozenset[Signal], batch_statistics: bool = False
    ) -> dict[Signal, Tensor]:
        """See `ReleaseMode.ask`."""
        answers = self._teacher_for(batch_statistics).ask(images, signals)
        if not self.policy.reduced:
            return answers
        logits = answers[Signal.LOGITS]
        each = [reduce_logits(logits[:, at], self.policy) for at in self.groups or (slice(None),)]
        return {Signal.LOGITS: torch.cat(each, 1)}

    def gradient(
        self, images: Tensor, cotangents: Mapping[Signal, Tensor], batch_statistics: bool = False
    ) -> Tensor:
        """See `ReleaseMode.gradient`."""
        return self._teacher_for(batch_statistics).pull_back(images, cotangents)

    def noisy_answers(self, images: Tensor) -> Tensor:
        """Always raises: these answers have no noise."""
        raise NeedsError(f"mode {self.policy.mode} draws no noise")

    def to_logits(self, noisy: Tensor) -> Tensor:
        """Always raises."""
        raise NeedsError(f"mode {self.policy.mode} draws no noise")


def reduce_logits(logits: Tensor, policy: Policy) -> Tensor:
    """(B, K) logits coarsened as the policy says; not finite where ``logits`` are not."""
    if not bool(logits.isfinite().all()):
        return logits  # the release gate refuses these
    if policy.labels:
        return one_hot_logits(logits.argmax(1), logits.shape[1])
    if policy.top_k is not None:
        logits = top_k_logits(logits, policy.top_k)
    return logits if policy.rounding is None else round_probabilities(logits, policy.rounding)


def one_hot_logits(labels: Tensor, classes: int) -> Tensor:
    """(B,) labels -> (B, K) logits that hold nothing else: 0 except at the label.

    The value there is a multiple of 1/16, which quantisation on the wire does not change, see
    `fedkd.protocol.logit_quantisation`.
    """
    odds = ONE_HOT_PROBABILITY / (1 - ONE_HOT_PROBABILITY) * max(1, classes - 1)
    return F.one_hot(labels, classes).float() * (round(16 * math.log(odds)) / 16)


def top_k_logits(logits: Tensor, k: int) -> Tensor:
    """(B, K) log-probabilities of the k likeliest classes; the others share the rest evenly."""
    log_p = logits.log_softmax(1)
    others = logits.shape[1] - k
    if others <= 0:
        return log_p
    ranked, order = log_p.sort(dim=1, descending=True)
    ranked[:, k:] = ranked[:, k:].logsumexp(1, keepdim=True) - torch.tensor(others).log()
    return torch.empty_like(ranked).scatter_(1, order, ranked)


def round_probabilities(logits: Tensor, digits: int) -> Tensor:
    """(B, K) logarithms of probabilities rounded to so many decimal digits.

    One that is rounded to zero counts as half a unit of the last digit.
    """
    unit = 10.0**-digits
    p = (logits.double().softmax(1) / unit).round() * unit
    return p.clamp_min(unit / 2).log().float()
