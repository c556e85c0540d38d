"""Fusion rules: the logits of T institutions become one target, by opinion pools and means.

Every rule maps ``(T, B, K)`` logits to ``(B, K)`` fused logits and is differentiable, so that a
loss on the fused target has a cotangent for each institution. What a rule may know of the
institutions is their class counts ``(T, K)``; where any of them keeps its counts to itself, rules
that need them are refused by `build_fusion`.

Institutions may have different classes. Each one's logits are then spread over those of the
federation, -inf where it has none: no probability, and no evidence either. Rules for which that
means something take it; others are refused by `build_fusion`.

Averaging plain logits is here for comparison only: a teacher that has never seen a class is
loudest about the classes that it has.
"""

import functools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from fedkd.errors import SettingsError
from fedkd.protocol import Answers, Card, LabelSpaces, Signal

FLOOR = -8.0
"""Log-probabilities below this say only "no": a louder no is not more evidence."""
LEAST_WEIGHT = 0.05
"""Weight of a class that an institution has never seen, beside 1 for a class seen averagely."""
SHRINKAGE = 10.0
"""Of offsets, where everybody has the same classes."""
SHRINKAGE_APART = 0.1
"""Where not. An offset is then about the logarithm of the share of the truth that an institution's
classes hold: large, needed, and known by few classes, which a pull of 10 would outweigh."""
MOST_OF_MEDIAN = 2.0
"""Most that the class counts of one institution weigh on the mean, in units of the median."""
RIDGE = 3.0
"""Pull of classes to their mean, where sets differ. What one institution alone says of a class is
noisier than a mean of several, and the loudest noise would win: without the pull, most images of
no class at all were named after a class that one institution alone knows."""


def mean_logits(logits: Tensor, counts: Tensor, known: Tensor | None = None) -> Tensor:
    """Plain mean of logits: the worst rule at every label skew that was measured. (B, K)."""
    del counts, known
    return logits.mean(0)


def mean_probabilities(logits: Tensor, counts: Tensor, known: Tensor | None = None) -> Tensor:
    """Log of the mean probability, over those who know the class: the linear pool. (B, K)."""
    del counts
    if known is None:
        return _log(logits.softmax(-1).mean(0))
    return _log(logits.softmax(-1).sum(0) / known.sum(0))


def counted_probabilities(logits: Tensor, counts: Tensor, known: Tensor | None = None) -> Tensor:
    """Linear pool in which class c is weighted by who has seen c: n_kc / n_c. (B, K)."""
    del known  # who has no such class has seen none of it
    weight = counts / counts.sum(0).clamp_min(1.0)  # (T, K)
    return _log(torch.einsum("tbk,tk->bk", logits.softmax(-1), weight)).log_softmax(-1)


def counted_logits(logits: Tensor, counts: Tensor, known: Tensor | None = None) -> Tensor:
    """Logarithmic pool weighted by who has seen class c. (B, K)."""
    del known
    weight = counts / counts.sum(0).clamp_min(1.0)
    return torch.einsum("tbk,tk->bk", logits.log_softmax(-1).clamp_min(FLOOR), weight)


def prior_corrected(logits: Tensor, counts: Tensor, known: Tensor | None = None) -> Tensor:
    """Each teacher's class prior divided out, then a linear pool weighted by counts. (B, K)."""
    prior = (counts + 1.0) / (counts + 1.0).sum(1, keepdim=True)  # (T, K)
    corrected = logits.log_softmax(-1) - prior.log()[:, None]
    return counted_probabilities(corrected, counts, known)


def confidence_weighted(logits: Tensor, counts: Tensor, known: Tensor | None = None) -> Tensor:
    """Linear pool weighted by exp(-2 H), H the entropy of a teacher's answer, per image. (B, K)."""
    del counts, known
    p = logits.softmax(-1)
    negative_entropy = (p * logits.log_softmax(-1)).sum(-1)  # (T, B); entr has no slope at 0
    return _log(torch.einsum("tbk,tb->bk", p, (2.0 * negative_entropy).softmax(0)))


def log_linear_pool(
    logits: Tensor,
    counts: Tensor,
    known: Tensor | None = None,
    *,
    shrinkage: float | None = None,
) -> Tensor:
    """Logarithmic pool with one offset for each institution and image. (B, K).

    Model: ``log p_k(c) = u(c) - a_k``. A teacher that lacks the true class still hands out a whole
    unit of probability among the others; its offset ``a_k`` takes that back. Both are fitted by
    least squares, weighted by class counts,

        sum_kc w_kc (u_c - a_k - log p_k(c))^2 + shrinkage * sum_k a_k^2,

    which is linear in ``log p``: the solution is one fixed matrix for a set of institutions. With
    ``n_kc`` images of class c at institution k, ``w_kc = max(sqrt(n_kc / mean n), 0.05)``: weights
    in proportion to counts let one institution decide a class alone, off the data too. The weight
    of a class that an institution does not have is 0: it is no part of the sum. Classes that two
    institutions share are then what makes the rest of their answers comparable, and where sets
    differ the sum has one more term, ``RIDGE * sum_c (u_c - mean u)^2``.

    Args:
        logits: (T, B, K).
        counts: (T, K) training images of each class at each institution.
        known: (T, K) whether an institution has the class, each had by one at least; None: all do.
        shrinkage: pulls offsets to zero; 0 < shrinkage. At infinity: the count-weighted pool.
            None: `SHRINKAGE`, or `SHRINKAGE_APART` where ``known`` is given.

    Source: ours; related to the logarithmic opinion pool (Genest and Zidek, 1986).
    """
    if shrinkage is None:
        shrinkage = SHRINKAGE if known is None else SHRINKAGE_APART
    log_p = logits.log_softmax(-1).clamp_min(FLOOR)
    pool = _pool_matrix(counts.double(), known, shrinkage).to(log_p)  # (K, T, K)
    return torch.einsum("ctk,tbk->bc", pool, log_p)


def _pool_matrix(counts: Tensor, known: Tensor | None, shrinkage: float) -> Tensor:
    """The matrix M with u_c = sum_tk M[c, t, k] log p_t(k). (K, T, K).

    Each offset stands in the normal equations with itself and the classes alone, so it is put in
    terms of the classes first. What is left to solve is (K, K), however many institutions there
    are.
    """
    classes = counts.shape[1]
    had = torch.ones_like(counts, dtype=torch.bool) if known is None else known
    average = counts[had].mean().clamp_min(1.0)
    weight = torch.sqrt(counts / average).clamp_min(LEAST_WEIGHT) * had  # (T, K)
    share = weight / (weight.sum(1, keepdim=True) + shrinkage)  # a_t = sum_k share_tk (u_k - log p)
    normal = torch.diag(weight.sum(0)) - share.T @ weight
    if known is not None:
        normal += RIDGE * (torch.eye(classes) - 1 / classes)
    right = (torch.diag_embed(weight) - share[:, :, None] * weight[:, None]).transpose(0, 1)
    solution: Tensor = torch.linalg.solve(normal, right.flatten(1))
    return solution.view(right.shape)


def _log(p: Tensor) -> Tensor:
    return p.clamp_min(1e-8).log()


def weighted_mean(logits: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """``sum_k w_k z_k / sum_k w_k`` of logits (B, K) by institution; alike where all weigh 0."""
    names = sorted(logits)
    weight = torch.tensor([weights[name] for name in names])
    if not float(weight.sum()) > 0:
        weight = torch.ones_like(weight)
    stacked = torch.stack([logits[name] for name in names])  # (T, B, K)
    return torch.einsum("t,tbk->bk", (weight / weight.sum()).to(stacked), stacked)


class Rule(Protocol):
    """One way to fuse."""

    def __call__(self, logits: Tensor, counts: Tensor, known: Tensor | None = None) -> Tensor:
        """(T, B, K) logits, (T, K) counts, (T, K) who has which class -> (B, K) fused logits."""


RULES: dict[str, Rule] = {
    "log_linear_pool": log_linear_pool,
    "counted_probabilities": counted_probabilities,
    "counted_logits": counted_logits,
    "prior_corrected": prior_corrected,
    "confidence_weighted": confidence_weighted,
    "mean_probabilities": mean_probabilities,
    "mean_logits": mean_logits,
}
BLIND = frozenset({"confidence_weighted", "mean_probabilities", "mean_logits"})
"""Rules that do without class counts."""
ALIKE = frozenset({"confidence_weighted", "mean_logits"})
"""Rules for the same classes everywhere: neither logits of different sets, whose zero is their own,
nor entropies over different numbers of classes can be compared."""


@dataclass(frozen=True)
class RuleFusion:
    """A rule and what it knows of each institution."""

    rule: str
    counts: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Counts of its own classes by institution; empty where the rule does without."""
    labels: LabelSpaces | None = None
    """Who has which class; None: everybody has all, in one order."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """By institution, what its logits weigh in their mean; empty: the rule decides."""

    def __call__(self, signals: Mapping[str, Mapping[Signal, Tensor]]) -> dict[Signal, Tensor]:
        """Fuse what is there, by name of institution, into one value for each signal.

        Logits by the rule, (B, K_i) of each into (B, K); the batch-norm gap as its mean; features
        have no common space and are left out. The order of names does not matter.
        """
        names = sorted(signals)
        logits = {name: signals[name][Signal.LOGITS].float() for name in names}
        fused = {Signal.LOGITS: self._fused(logits)}
        gaps = [signals[n][Signal.BN_GAP] for n in names if Signal.BN_GAP in signals[n]]
        if gaps:
            fused[Signal.BN_GAP] = torch.stack(gaps).mean()
        return fused

    def of(self, answers: Answers) -> dict[Signal, Tensor]:
        """`__call__` on replies."""
        return self({name: reply.signals for name, reply in answers.items()})

    def _fused(self, own: Mapping[str, Tensor]) -> Tensor:
        """(B, K_i) by institution -> (B, K)."""
        if self.weights:
            return weighted_mean({n: self._spread(n, v, 0.0) for n, v in own.items()}, self.weights)
        rule, labels = RULES[self.rule], self.labels
        logits = torch.stack([self._spread(name, said, -math.inf) for name, said in own.items()])
        counts = torch.cat([self._spread(n, self._counts(n, said), 0.0) for n, said in own.items()])
        if labels is None or all(len(labels.indices[n]) == len(labels.names) for n in own):
            return rule(logits, counts)
        known = torch.cat(
            [self._spread(n, torch.ones_like(said[:1]), 0.0) for n, said in own.items()]
        ).bool()
        heard = known.any(0)
        return _even_odds(rule(logits[..., heard], counts[:, heard], known[:, heard]), heard)

    def _spread(self, name: str, own: Tensor, elsewhere: float) -> Tensor:
        return own if self.labels is None else self.labels.to_union(name, own, elsewhere)

    def _counts(self, name: str, logits: Tensor) -> Tensor:
        """Of an institution's own classes, (1, K_i); all 1 where the rule does without."""
        if not self.counts:
            return torch.ones_like(logits[:1])
        return torch.tensor([self.counts[name]], device=logits.device).float()


def _even_odds(fused: Tensor, heard: Tensor) -> Tensor:
    """(B, K') over the classes that somebody was heard on -> (B, K), 1 / K for each of the others.

    Whoever knows a class may be away for a question. That its class is unlikely would be a lie.
    """
    if bool(heard.all()):
        return fused
    share = math.log(fused.shape[1] / len(heard))
    everything = fused.new_full((len(fused), len(heard)), -math.log(len(heard)))
    return everything.index_copy(1, heard.nonzero()[:, 0], fused.log_softmax(1) + share)


def build_fusion(rule: str, cards: Sequence[Card]) -> RuleFusion:
    """The fusion of these institutions by this rule.

    Class counts are bounded by `bounded_counts`. ``auto`` is `log_linear_pool` where every
    institution tells its class counts or where they have different classes, which the pool can take
    without, and else `mean_probabilities`.

    Raises:
        SettingsError: an unknown rule, one that needs counts which somebody keeps, or one that
            needs the same classes everywhere.
    """
    labels = LabelSpaces.of(cards)
    silent = [card.name for card in cards if card.class_counts is None]
    if rule == "auto":
        rule = "mean_probabilities" if silent and labels.identical else "log_linear_pool"
    if rule not in RULES:
        raise SettingsError(f"unknown rule {rule!r}; choose auto or one of {', '.join(RULES)}")
    _check_sets(rule, labels.identical)
    if rule in BLIND or (silent and rule == "log_linear_pool" and not labels.identical):
        return RuleFusion(rule, labels=labels)
    if silent:
        raise SettingsError(_silent(rule, silent))
    counts = {c.name: c.class_counts for c in cards if c.class_counts is not None}
    return RuleFusion(rule, bounded_counts(counts), labels)


def bounded_counts(counts: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[float, ...]]:
    """Class counts by institution, scaled down where their mean is above twice the median of means.

    Counts are claims that nobody can check. Shares within an institution stay, and no claim of one
    raises its weight without bound. Means are over the classes that an institution has, so that
    nobody is bounded for knowing more of them. Of an even number the lower median counts, so that
    of two institutions the greater claim is bounded by the other.
    """
    means = {name: sum(own) / len(own) for name, own in counts.items()}
    cap = MOST_OF_MEDIAN * statistics.median_low(means.values())
    return {
        name: own if means[name] <= cap else tuple(cap * count / means[name] for count in own)
        for name, own in counts.items()
    }


def _check_sets(rule: str, alike: bool) -> None:
    if rule in ALIKE and not alike:
        raise SettingsError(
            f"rule {rule!r} needs the same classes at every institution, and these differ; choose "
            "log_linear_pool, which compares them by what they share, or mean_probabilities"
        )


def _silent(rule: str, names: Sequence[str]) -> str:
    return (
        f"rule {rule!r} needs class counts, which {', '.join(names)} keeps to itself; choose "
        f"one of {', '.join(sorted(BLIND))}, or ask the owner to set class_counts = true"
    )


@functools.lru_cache(maxsize=8)
def cached_fusion(rule: str, cards: tuple[Card, ...]) -> RuleFusion:
    """`build_fusion`, cached: a run needs it for every question, and its cards seldom change."""
    return build_fusion(rule, cards)
