"""Fusion rules: the logits of T institutions become one target, by opinion pools and means.

Every rule maps ``(T, B, K)`` logits to ``(B, K)`` fused logits and is differentiable, so that a
loss on the fused target has a cotangent for each institution. What a rule may know of the
institutions is their class counts ``(T, K)``; where any of them keeps its counts to itself, rules
that need them are refused by `build_class_fusion`.

Institutions may have different classes. Each one's logits are then spread over those of the
federation, -inf where it has none: no probability, and no evidence either. Rules for which that
means something take it; others are refused by `build_class_fusion`.

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

from fedkd.aggregation.log_linear_pool import FLOOR, log_linear_pool
from fedkd.aggregation.logit_adjustment import (
    adjusted,
    fused_log_prior,
    institution_log_priors,
    wanted_prior,
)
from fedkd.core.run_plan import AUTO, ClassPrior
from fedkd.errors import SettingsError
from fedkd.protocol import WHOLE_BATCH, Answers, Card, LabelSpaces, Signal

MOST_OF_MEDIAN = 2.0
"""Most that the class counts of one institution weigh on the mean, in units of the median."""
MOST_OF_MEDIAN_IN_PRIOR = 10.0
"""Likewise on the federation's class prior: there a bound that honest counts reach does harm."""


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
    """Logarithmic pool weighted by who has seen class c; alike where nobody has. (B, K)."""
    total = counts.sum(0)
    alike = torch.ones_like(counts) if known is None else known.to(counts)
    weight = torch.where(total > 0, counts / total.clamp_min(1.0), alike / alike.sum(0))
    return torch.einsum("tbk,tk->bk", logits.log_softmax(-1).clamp_min(FLOOR), weight)


def prior_corrected(logits: Tensor, counts: Tensor, known: Tensor | None = None) -> Tensor:
    """Each teacher's class prior divided out, then a linear pool weighted by counts. (B, K)."""
    corrected = logits.log_softmax(-1) - institution_log_priors(counts)[:, None]
    return counted_probabilities(corrected, counts, known)


def confidence_weighted(logits: Tensor, counts: Tensor, known: Tensor | None = None) -> Tensor:
    """Linear pool weighted by exp(-2 H), H the entropy of a teacher's answer, per image. (B, K)."""
    del counts, known
    p = logits.softmax(-1)
    negative_entropy = (p * logits.log_softmax(-1)).sum(-1)  # (T, B); entr has no slope at 0
    return _log(torch.einsum("tbk,tb->bk", p, (2.0 * negative_entropy).softmax(0)))


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
    trusted: Mapping[str, tuple[bool, ...]] = field(default_factory=dict)
    """By institution, which of its own classes are fused; whoever is absent is trusted in all."""
    told: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Class counts that the federation's class prior is made of; empty: it is not needed."""
    prior: tuple[float, ...] | None = None
    """(K,) class prior of the fused answer, see `fedkd.aggregation.logit_adjustment`; None: as
    trained."""

    def __call__(self, signals: Mapping[str, Mapping[Signal, Tensor]]) -> dict[Signal, Tensor]:
        """Fuse what is there, by name of institution, into one value for each signal.

        Logits by the rule, (B, K_i) of each into (B, K); the batch-norm gap and relations as their
        mean over those who are trusted in some class; features of one as they are, of several,
        which have no common space, not at all. The order of names does not matter.
        """
        names = sorted(signals)
        logits = {name: signals[name][Signal.LOGITS].float() for name in names}
        fused = {Signal.LOGITS: self._fused(logits)}
        heard = sorted(self._without_distrusted(logits))
        for signal in sorted(WHOLE_BATCH):
            if own := [signals[n][signal].float() for n in heard if signal in signals[n]]:
                fused[signal] = torch.stack(own).mean(0)
        if len(names) == 1 and Signal.FEATURES in signals[names[0]]:
            fused[Signal.FEATURES] = signals[names[0]][Signal.FEATURES].float()
        return fused

    def of(self, answers: Answers) -> dict[Signal, Tensor]:
        """`__call__` on replies."""
        return self({name: reply.signals for name, reply in answers.items()})

    def _fused(self, own: Mapping[str, Tensor]) -> Tensor:
        """(B, K_i) by institution -> (B, K)."""
        if self.weights:
            return weighted_mean({n: self._spread(n, v, 0.0) for n, v in own.items()}, self.weights)
        own = self._without_distrusted(own)
        labels, trusted = self.labels, self._classes_trusted(own)
        logits = torch.stack([self._spread(name, said, -math.inf) for name, said in own.items()])
        counts, told = self._counts(self.counts, own), self._counts(self.told, own)
        if labels is None or all(len(labels.indices[n]) == len(labels.names) for n in own):
            return self._adjusted(logits, counts, told, None, trusted)
        known = torch.cat(
            [self._spread(n, torch.ones_like(said[:1]), 0.0) for n, said in own.items()]
        ).bool()
        heard = known.any(0)
        said = (logits[..., heard], counts[:, heard], told[:, heard], known[:, heard])
        granted = None if trusted is None else trusted[:, heard]
        return _even_odds(self._adjusted(*said, granted, heard), heard)

    def _adjusted(
        self,
        logits: Tensor,
        counts: Tensor,
        told: Tensor,
        known: Tensor | None,
        trusted: Tensor | None,
        heard: Tensor | slice = slice(None),
    ) -> Tensor:
        """Fused by the rule, with the class prior that is wanted; of the classes ``heard``."""
        if self.prior is None:
            return self._ruled(logits, counts, known, trusted)
        evidence_free = institution_log_priors(counts, known)[:, None].to(logits)
        fused = self._ruled(torch.cat([logits, evidence_free], 1), counts, known, trusted)
        pooled = (told if trusted is None else told * trusted).sum(0)
        prior = torch.tensor(self.prior, device=logits.device)[heard]
        return adjusted(fused[:-1], fused_log_prior(fused[-1].detach(), pooled), prior)

    def _ruled(
        self, logits: Tensor, counts: Tensor, known: Tensor | None, trusted: Tensor | None
    ) -> Tensor:
        if trusted is None:
            return RULES[self.rule](logits, counts, known)
        return log_linear_pool(logits, counts, known, trusted=trusted)

    def _without_distrusted(self, own: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Those who are trusted in some class; everybody where nobody is."""
        left = {n: said for n, said in own.items() if any(self.trusted.get(n, (True,)))}
        return left or own

    def _classes_trusted(self, own: Mapping[str, Tensor]) -> Tensor | None:
        """What the pool is told, (T, K), where some are trusted in some classes only."""
        if self.rule != "log_linear_pool" or all(all(self.trusted.get(n, ())) for n in own):
            return None
        rows = [
            self._spread(n, torch.tensor([self.trusted.get(n, (True,) * said.shape[1])]), True)
            for n, said in own.items()
        ]
        return torch.cat(rows)

    def _spread(self, name: str, own: Tensor, elsewhere: float) -> Tensor:
        return own if self.labels is None else self.labels.to_union(name, own, elsewhere)

    def _counts(self, counts: Mapping[str, tuple[float, ...]], own: Mapping[str, Tensor]) -> Tensor:
        """(T, K) of those who answered, 0 of a class that one lacks; 1 each where none are told."""
        rows = [
            torch.tensor([counts[name]], device=said.device).float()
            if counts
            else torch.ones_like(said[:1])
            for name, said in own.items()
        ]
        return torch.cat([self._spread(n, r, 0.0) for n, r in zip(own, rows, strict=True)])


def _even_odds(fused: Tensor, heard: Tensor) -> Tensor:
    """(B, K') over the classes that somebody was heard on -> (B, K), 1 / K for each of the others.

    Whoever knows a class may be away for a question. That its class is unlikely would be a lie.
    """
    if bool(heard.all()):
        return fused
    share = math.log(fused.shape[1] / len(heard))
    everything = fused.new_full((len(fused), len(heard)), -math.log(len(heard)))
    return everything.index_copy(1, heard.nonzero()[:, 0], fused.log_softmax(1) + share)


def build_class_fusion(rule: str, cards: Sequence[Card], prior: ClassPrior = AUTO) -> RuleFusion:
    """The fusion of these institutions' classes by this rule, with this class prior.

    Class counts are bounded by `bounded_counts`. ``auto`` is `log_linear_pool` where every
    institution tells its class counts or where they have different classes, which the pool can take
    without, and else `mean_probabilities`.

    Raises:
        SettingsError: an unknown rule, one that needs counts which somebody keeps, or one that
            needs the same classes everywhere; a prior that needs such counts, or is of other
            classes.
    """
    labels = LabelSpaces.of(cards)
    silent = [card.name for card in cards if card.class_counts is None]
    if rule == "auto":
        rule = "mean_probabilities" if silent and labels.identical else "log_linear_pool"
    if rule not in RULES:
        raise SettingsError(f"unknown rule {rule!r}; choose auto or one of {', '.join(RULES)}")
    _check_sets(rule, labels.identical)
    counted = rule not in BLIND and not silent
    wanted = wanted_prior(prior, labels.names, counted)
    if silent:
        _check_silent(rule, labels.identical, wanted is not None, silent)
    told = {c.name: c.class_counts for c in cards if c.class_counts is not None}
    counts = bounded_counts(told) if counted or wanted else {}
    pooled = bounded_counts(told, MOST_OF_MEDIAN_IN_PRIOR) if wanted else {}
    return RuleFusion(rule, counts, labels, told=pooled, prior=wanted)


def bounded_counts(
    counts: Mapping[str, tuple[int, ...]], most: float = MOST_OF_MEDIAN
) -> dict[str, tuple[float, ...]]:
    """Class counts by institution, scaled down where their mean is above ``most`` medians of means.

    Counts are claims that nobody can check. Shares within an institution stay, and no claim of one
    raises its weight without bound. Means are over the classes that an institution has, so that
    nobody is bounded for knowing more of them. Of an even number the lower median counts, so that
    of two institutions the greater claim is bounded by the other. A claim of no image at all bounds
    nobody: else half of all could take the counts of the rest away.
    """
    means = {name: sum(own) / len(own) for name, own in counts.items()}
    cap = most * statistics.median_low([mean for mean in means.values() if mean] or [0.0])
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


def _check_silent(rule: str, alike: bool, prior: bool, names: Sequence[str]) -> None:
    """Refuse what needs the class counts of ``names``, who keep them to themselves."""
    if rule not in BLIND and (alike or rule != "log_linear_pool"):
        what, instead = f"rule {rule!r}", f"choose one of {', '.join(sorted(BLIND))}"
    elif prior:
        what, instead = "a prior of the fused answer", "leave questions.prior out"
    else:
        return
    raise SettingsError(
        f"{what} needs class counts, which {', '.join(names)} keeps to itself; {instead}, or ask "
        "the owner to set class_counts = true"
    )


@functools.lru_cache(maxsize=8)
def cached_class_fusion(rule: str, cards: tuple[Card, ...], prior: ClassPrior = AUTO) -> RuleFusion:
    """`build_class_fusion`, cached: a run needs it for every question, and cards seldom change."""
    return build_class_fusion(rule, cards, prior)
