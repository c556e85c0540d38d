"""T replies become one target. Knows the arithmetic of opinions, not who gave them or why.

Every rule maps ``(T, B, K)`` logits to ``(B, K)`` fused logits and is differentiable, so that a
loss on the fused target has a cotangent for each institution. What a rule may know of the
institutions is their class counts ``(T, K)``; where any of them keeps its counts to itself, rules
that need them are refused by `fusion`.

Averaging plain logits is here for comparison only: a teacher that has never seen a class is
loudest about the classes that it has.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedkd.errors import SettingsError
from fedkd.signals import Answers, Card, Signal

FLOOR = -8.0
"""Log-probabilities below this say only "no": a louder no is not more evidence."""
LEAST_WEIGHT = 0.05
"""Weight of a class that an institution has never seen, beside 1 for a class seen averagely."""


def mean_logits(logits: Tensor, counts: Tensor) -> Tensor:
    """Plain mean of logits: the worst rule at every label skew that was measured. (B, K)."""
    del counts
    return logits.mean(0)


def mean_probabilities(logits: Tensor, counts: Tensor) -> Tensor:
    """Log of the mean probability: the linear opinion pool. (B, K)."""
    del counts
    return _log(logits.softmax(-1).mean(0))


def counted_probabilities(logits: Tensor, counts: Tensor) -> Tensor:
    """Linear pool in which class c is weighted by who has seen c: n_kc / n_c. (B, K)."""
    weight = counts / counts.sum(0).clamp_min(1.0)  # (T, K)
    return _log(torch.einsum("tbk,tk->bk", logits.softmax(-1), weight)).log_softmax(-1)


def counted_logits(logits: Tensor, counts: Tensor) -> Tensor:
    """Logarithmic pool weighted by who has seen class c. (B, K)."""
    weight = counts / counts.sum(0).clamp_min(1.0)
    return torch.einsum("tbk,tk->bk", logits.log_softmax(-1).clamp_min(FLOOR), weight)


def prior_corrected(logits: Tensor, counts: Tensor) -> Tensor:
    """Each teacher's class prior divided out, then a linear pool weighted by counts. (B, K)."""
    prior = (counts + 1.0) / (counts + 1.0).sum(1, keepdim=True)  # (T, K)
    corrected = logits.log_softmax(-1) - prior.log()[:, None]
    return counted_probabilities(corrected, counts)


def confidence_weighted(logits: Tensor, counts: Tensor) -> Tensor:
    """Linear pool weighted by exp(-2 H), H the entropy of a teacher's answer, per image. (B, K)."""
    del counts
    p = logits.softmax(-1)
    negative_entropy = (p * logits.log_softmax(-1)).sum(-1)  # (T, B); entr has no slope at 0
    return _log(torch.einsum("tbk,tb->bk", p, (2.0 * negative_entropy).softmax(0)))


def log_linear_pool(logits: Tensor, counts: Tensor, *, shrinkage: float = 10.0) -> Tensor:
    """Logarithmic pool with one offset for each institution and image. (B, K).

    Model: ``log p_k(c) = u(c) - a_k``. A teacher that lacks the true class still hands out a whole
    unit of probability among the others; its offset ``a_k`` takes that back. Both are fitted by
    least squares, weighted by class counts,

        sum_kc w_kc (u_c - a_k - log p_k(c))^2 + shrinkage * sum_k a_k^2,

    which is linear in ``log p``: the solution is one fixed matrix for a set of institutions. With
    ``n_kc`` images of class c at institution k, ``w_kc = max(sqrt(n_kc / mean n), 0.05)``: weights
    in proportion to counts let one institution decide a class alone, off the data too.

    Args:
        logits: (T, B, K).
        counts: (T, K) training images of each class at each institution.
        shrinkage: pulls offsets to zero; 0 < shrinkage. At infinity: the count-weighted pool.

    Source: ours; related to the logarithmic opinion pool (Genest and Zidek, 1986).
    """
    log_p = logits.log_softmax(-1).clamp_min(FLOOR)
    pool = _pool_matrix(counts.double(), shrinkage).to(log_p)  # (K, T, K)
    return torch.einsum("ctk,tbk->bc", pool, log_p)


def _pool_matrix(counts: Tensor, shrinkage: float) -> Tensor:
    """The matrix M with u_c = sum_tk M[c, t, k] log p_t(k). (K, T, K)."""
    teachers, classes = counts.shape
    weight = torch.sqrt(counts / counts.mean().clamp_min(1.0)).clamp_min(LEAST_WEIGHT)  # (T, K)
    # Normal equations in (u, a), one column of right-hand side for each log p_t(k).
    size = classes + teachers
    normal = torch.zeros(size, size, dtype=counts.dtype)
    normal[:classes, :classes] = torch.diag(weight.sum(0))
    normal[classes:, classes:] = torch.diag(weight.sum(1) + shrinkage)
    normal[:classes, classes:] = -weight.T
    normal[classes:, :classes] = -weight
    right = torch.zeros(size, teachers, classes, dtype=counts.dtype)
    for t in range(teachers):
        right[:classes, t] = torch.diag(weight[t])
        right[classes + t, t] = -weight[t]
    solution: Tensor = torch.linalg.solve(normal, right.flatten(1))
    return solution[:classes].view(classes, teachers, classes)


def _log(p: Tensor) -> Tensor:
    return p.clamp_min(1e-8).log()


Rule = Callable[[Tensor, Tensor], Tensor]
"""((T, B, K) logits, (T, K) counts) -> (B, K) fused logits."""

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


@dataclass(frozen=True)
class Fusion:
    """A rule and what it knows of each institution."""

    rule: str
    counts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Class counts by institution; empty for a blind rule."""

    def __call__(self, signals: Mapping[str, Mapping[Signal, Tensor]]) -> dict[Signal, Tensor]:
        """Fuse what is there, by name of institution, into one value for each signal.

        Logits by the rule; the batch-norm gap as its mean; features have no common space and are
        left out. The order of names does not matter.
        """
        names = sorted(signals)
        logits = torch.stack([signals[n][Signal.LOGITS].float() for n in names])  # (T, B, K)
        fused = {Signal.LOGITS: RULES[self.rule](logits, self._counts(names, logits))}
        gaps = [signals[n][Signal.BN_GAP] for n in names if Signal.BN_GAP in signals[n]]
        if gaps:
            fused[Signal.BN_GAP] = torch.stack(gaps).mean()
        return fused

    def of(self, answers: Answers) -> dict[Signal, Tensor]:
        """`__call__` on replies."""
        return self({name: reply.signals for name, reply in answers.items()})

    def _counts(self, names: Sequence[str], logits: Tensor) -> Tensor:
        if self.rule in BLIND:
            return logits.new_ones(len(names), logits.shape[-1])
        return torch.tensor([self.counts[n] for n in names], device=logits.device).float()


def fusion(rule: str, cards: Sequence[Card]) -> Fusion:
    """The fusion of these institutions by this rule.

    ``auto`` is `log_linear_pool` where every institution tells its class counts and
    `mean_probabilities` where one does not.

    Raises:
        SettingsError: an unknown rule, or one that needs counts which somebody keeps.
    """
    silent = [card.name for card in cards if card.class_counts is None]
    if rule == "auto":
        rule = "mean_probabilities" if silent else "log_linear_pool"
    if rule not in RULES:
        raise SettingsError(f"unknown rule {rule!r}; choose auto or one of {', '.join(RULES)}")
    if rule in BLIND:
        return Fusion(rule)
    if silent:
        raise SettingsError(
            f"rule {rule!r} needs class counts, which {', '.join(silent)} keeps to itself; choose "
            f"one of {', '.join(sorted(BLIND))}, or ask the owner to set class_counts = true"
        )
    return Fusion(rule, {c.name: c.class_counts for c in cards if c.class_counts is not None})
