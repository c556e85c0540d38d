"""How far institutions' answers to the same samples agree, in the classes that both sides know.

Log-probabilities are centred over classes and over samples, so that neither a temperature nor a
constant answer counts, and correlated with the others' fused ones, or with each peer's. A class
counts as far as both sides know it: by the counts that they claim, as far as answers show them.

Source: ours.
"""

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from fedkd.aggregation.log_linear_pool import FLOOR, pooled
from fedkd.aggregation.reliability.class_claims import (
    answers_its_only_class,
    class_contrast,
    shown_classes,
)

LEAST_PEERS = 3
"""Fewer peers have no median that a minority could not own."""
LEAST_EVIDENCE = 1.5
"""Classes in common, each as far as both sides know it, below which nothing is concluded."""
WELL_KNOWN = 0.5
"""Weight from which an institution, or its witness, counts as knowing a class; 1 is averagely."""
MAX_INSTITUTIONS = 50
"""Beyond it nobody is judged: the work grows with the cube, and one of so many moves little."""
LEAST_CLASSES = 0.15
"""Share of the classes, besides one, that a quarter of the institutions have to answer: below it
samples are too much alike to judge anybody by, as those of a generator that has just begun."""


@dataclass
class AnswerAgreement:
    """Answers and claims of T institutions, who is still trusted, and how far they agree."""

    log_p: Tensor
    """(T, N, K), clamped at `FLOOR`."""
    claimed: Tensor
    """(T, K), the counts as they are told and bounded."""
    had: Tensor
    """(T, K) bool: which classes each has at all."""

    def __post_init__(self) -> None:
        self.trusted = self.had.clone()
        # (T, K) bool: classes that are left out and explain what disagreed; no evidence any more.
        self.settled = torch.zeros_like(self.had)
        self.average = self.claimed[self.had].mean().clamp_min(1e-9)
        self.contrast = class_contrast(self.log_p.exp())
        self.single = (self.claimed > 0).sum(1) == 1
        self.constant = answers_its_only_class(self.log_p, self.claimed)

    @classmethod
    def of(cls, logits: Tensor, counts: Tensor, had: Tensor) -> Self:
        """Of (T, N, K) logits and (T, K) counts; everybody is trusted."""
        return cls(logits.log_softmax(-1).clamp_min(FLOOR), counts.double() * had, had)

    @property
    def alive(self) -> list[int]:
        """Institutions that are not left out."""
        return [int(k) for k in self.trusted.any(1).nonzero()[:, 0]]

    def counts(self) -> Tensor:
        """(T, K) counts as far as answers show them."""
        return self.claimed * self.shown()

    def shown(self) -> Tensor:
        """(T, K) in [0, 1]: how far a claim to know a class is granted."""
        by_contrast = shown_classes(self.contrast, self.trusted)
        others = ~self.single[:, None]  # maybe nobody: each may have a class of its own
        known = (self.claimed * by_contrast * others).amax(0)
        missing = (known / self.average).sqrt() < WELL_KNOWN
        most = torch.where(missing, 1.0, (known / self.claimed.clamp_min(1e-9)).clamp(max=1.0))
        return torch.where(self.single[:, None], self.constant[:, None] * most, by_contrast)

    def knowledge(self, counts: Tensor) -> Tensor:
        """(T, K) in [0, 1]: how well each knows a class."""
        return (counts / self.average).sqrt().clamp(max=1.0) * self.trusted

    def columns(self, knowledge: Tensor) -> Tensor:
        """(T, N, K) log-probabilities, centred over classes and samples, each of length 1.

        Classes are weighted by ``knowledge`` (T, K), so that those of which an institution knows
        nothing move no other.
        """
        weight = (knowledge / knowledge.sum(1, keepdim=True).clamp_min(1e-9)).to(self.log_p)
        columns = self.log_p - (self.log_p * weight[:, None]).sum(2, keepdim=True)
        columns = columns - columns.mean(1, keepdim=True)
        unit: Tensor = columns / columns.norm(dim=1, keepdim=True).clamp_min(1e-6)
        return unit

    def with_others(
        self, k: int, counts: Tensor, own_counts: Tensor | None = None
    ) -> tuple[float, Tensor, Tensor, float]:
        """Agreement of institution ``k`` with the others fused.

        Args:
            k: its index.
            counts: (T, K) of everybody.
            own_counts: (K,) of ``k`` itself; None: those in ``counts``.

        Returns:
            The agreement, NaN for too little in common; (K,) by class; (K,) what a second witness
            knows of it; and the evidence in classes.
        """
        own_counts = counts[k] if own_counts is None else own_counts
        own = (own_counts / self.average).sqrt().clamp(max=1.0) * ~self.settled[k]
        others = [j for j in self.alive if j != k]
        if len(others) < 2:
            return math.nan, torch.zeros_like(own), torch.zeros_like(own), 0.0
        known = self.knowledge(counts)
        witnesses = known[others].sort(0, descending=True).values
        shared = torch.minimum(own, witnesses[0])
        evidence = float(shared.sum())
        nothing = torch.zeros_like(own)
        if evidence < LEAST_EVIDENCE or int((shared > 0.1).sum()) < 2:
            return math.nan, nothing, nothing, evidence
        fused = pooled(
            *(self.log_p[others], counts[others], self.trusted[others]), average=self.average
        )
        by_class, whole = correlation(self.log_p[k], fused, shared)
        return whole, by_class, torch.minimum(own, witnesses[1]), evidence

    def on_claims(self, k: int, counts: Tensor) -> tuple[float, float]:
        """Agreement with the others on the classes that ``k`` claims, and its evidence in classes.

        Also on those that its answers do not show: who claims them has to agree on them. A liar
        would otherwise be judged by the few classes that its lies happen to show.
        """
        whole, _, _, evidence = self.with_others(k, counts, self.claimed[k])
        return whole, evidence

    def agreement(self, k: int) -> float:
        """Of institution ``k`` with those who are trusted, whether it is one of them or not."""
        before = self.trusted[k].clone()
        self.trusted[k] = self.had[k] & ~self.settled[k]
        found = self.on_claims(k, self.counts())[0]
        self.trusted[k] = before
        return found

    def with_peers(self, counts: Tensor) -> Tensor:
        """(T,) weighted median of the agreements with each peer; NaN for fewer than three."""
        pairs = zip(*self.of_pairs(counts), strict=True)
        return torch.tensor([_weighted_median(values, weights) for values, weights in pairs])

    def mean_of_pairs(self, counts: Tensor) -> list[float]:
        """(T,) mean agreement with the peers that share enough; 0 without any.

        Each counts alike: by evidence two who claim everything would count most for each other.
        """
        agreement = self.of_pairs(counts)[0]
        pairs = (~agreement.isnan()).sum(1).clamp_min(1)
        return [float(mean) for mean in agreement.nansum(1) / pairs]

    def of_pairs(self, counts: Tensor) -> tuple[Tensor, Tensor]:
        """(T, T) agreement of two who are trusted, NaN: too little in common; and its evidence."""
        known, alive = self.knowledge(counts), self.alive
        values = torch.full((len(counts), len(counts)), math.nan)
        weights = torch.zeros_like(values)
        for i, k in enumerate(alive):
            for j in alive[:i]:
                shared = torch.minimum(known[k], known[j])
                evidence = float(shared.sum())
                if evidence >= LEAST_EVIDENCE and int((shared > 0.1).sum()) >= 2:
                    value = correlation(self.log_p[k], self.log_p[j], shared)[1]
                    values[k, j] = values[j, k] = value
                    weights[k, j] = weights[j, k] = evidence
        return values, weights


def are_diverse(logits: Tensor) -> bool:
    """Whether hard answers to these samples, (T, N, K) logits, are of more than about one class.

    By the effective number of classes of each institution, the exponential of the entropy, of which
    the upper quartile counts: under skew many answer few classes, and who answers always the same,
    or at random, is no quarter.
    """
    classes = logits.shape[-1]
    shares = torch.stack([own.argmax(-1).bincount(minlength=classes) for own in logits]).double()
    effective = torch.special.entr(shares / shares.sum(1, keepdim=True)).sum(1).exp()
    return float(effective.quantile(0.75)) >= 1 + LEAST_CLASSES * (classes - 1)


def correlation(one: Tensor, other: Tensor, weight: Tensor) -> tuple[Tensor, float]:
    """Correlation over N samples of two (N, K), centred over classes and over samples.

    Classes are weighted by ``weight`` (K,). Returns (K,) by class, and that of all together.
    """
    w = (weight / weight.sum()).to(one)
    first, second = (x - (x * w).sum(1, keepdim=True) for x in (one, other))
    first, second = first - first.mean(0), second - second.mean(0)
    covariance = (first * second).sum(0)
    variances = first.square().sum(0), second.square().sum(0)
    by_class = covariance / (variances[0] * variances[1]).sqrt().clamp_min(1e-6)
    scale = ((w * variances[0]).sum() * (w * variances[1]).sum()).sqrt().clamp_min(1e-6)
    return by_class, float((w * covariance).sum() / scale)


def _weighted_median(values: Tensor, weights: Tensor) -> float:
    """The lower weighted median of what is not NaN; NaN for fewer than `LEAST_PEERS`."""
    there = ~values.isnan()
    if int(there.sum()) < LEAST_PEERS:
        return math.nan
    values, weights = values[there], weights[there]
    order = values.argsort()
    half = weights[order].cumsum(0) / weights.sum() >= 0.5
    return float(values[order][half.nonzero()[0, 0]])
