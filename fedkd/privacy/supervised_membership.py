"""Supervised membership inference: an attacker who knows some members learns to tell the others.

No shadow model is trained. The attacker reads statistics of what a model released about a sample
whose label it knows, and a linear classifier learns on known members and non-members what sets
them apart (Nasr, Shokri and Houmansadr, 2019, have a network do so). Half of the samples are known
to the attacker, and the other half alone is counted. An attack with shadow models
(`fedkd.privacy.membership_inference.lira`) may find more.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import special

from fedkd.errors import SettingsError
from fedkd.privacy.membership_inference import (
    Estimate,
    Flags,
    Floats,
    area,
    auc,
    margin,
    tpr_at,
)

Groups: TypeAlias = NDArray[np.int64]
MIN_SAMPLES = 10
"""Fewest members, and fewest others: half of them are known to the attacker."""
LOW_FPR = 0.01
"""False positive rate at which the true positive rate is told."""
MAX_COLUMNS = 2048
"""Most pixels or columns of a sample that the control reads."""
LOGITS = "logits"
"""Name of the logits among the statistics."""
SAMPLES_ALONE = "samples alone"
"""Name of the control: it reads the samples, and nothing that a model released."""
_LARGEST = 1e4
_SMALLEST = 1e-12


# --- statistics of what was released


def logit_statistics(logits: Floats, labels: Groups) -> Floats:
    """(N, 4) of (N, K) logits and (N,) labels: margins of label and top class, entropy, loss."""
    log_p = logits.astype(np.float64) - special.logsumexp(logits, axis=1, keepdims=True)
    rows = np.arange(len(labels))
    columns = (
        margin(logits, labels),
        margin(logits, logits.argmax(1)),
        -(np.exp(log_p) * log_p).sum(1),
        -log_p[rows, labels],
    )
    return np.stack(columns, axis=1).clip(-_LARGEST, _LARGEST)


def number_statistics(values: Floats, truth: Floats) -> Floats:
    """(N, 2 K) of (N, K) predicted numbers and true ones: absolute errors, and errors."""
    error = values.astype(np.float64) - truth
    return np.concatenate([np.abs(error), error], axis=1)


def feature_statistics(features: Floats, groups: Groups) -> Floats:
    """(N, 3) of (N, D) features: norm, distance to the own class's mean, and how near another is.

    Args:
        features: of members and non-members, in equal numbers for each class: then a mean tells
            nothing of who is a member.
        groups: (N,) labels; all 0 where numbers are predicted.
    """
    wide = features.astype(np.float64)
    present, index = np.unique(groups, return_inverse=True)
    means = np.stack([wide[groups == group].mean(0) for group in present])
    distance = np.linalg.norm(wide[:, None] - means, axis=2)
    rows = np.arange(len(wide))
    own = distance[rows, index].copy()
    distance[rows, index] = np.inf
    nearest = distance.min(1) if len(present) > 1 else own
    return np.stack([np.linalg.norm(wide, axis=1), own, nearest - own], axis=1)


def relation_statistics(relations: Floats, groups: Groups) -> Floats:
    """(N, 3) of (N, N) relations: mean to the own class, mean to all others, and the greatest.

    Args:
        relations: cosines, of members and non-members of one batch.
        groups: (N,) labels; all 0 where numbers are predicted.
    """
    wide = relations.astype(np.float64)
    apart = ~np.eye(len(wide), dtype=bool)
    own = (groups[:, None] == groups) & apart
    other = apart & ~own

    def mean(which: NDArray[np.bool_]) -> Floats:
        found: Floats = np.where(which, wide, 0.0).sum(1) / np.maximum(which.sum(1), 1)
        return found

    return np.stack([mean(own), mean(other), np.where(apart, wide, -1.0).max(1)], axis=1)


def gradient_statistics(gradients: Floats) -> Floats:
    """(N, 3) of (N, ...) gradients by the sample: logarithms of their L1, L2 and largest norm."""
    flat = np.abs(gradients.reshape(len(gradients), -1).astype(np.float64))
    norms = (flat.sum(1), np.sqrt((flat**2).sum(1)), flat.max(1))
    return np.log(np.stack(norms, axis=1) + _SMALLEST)


def sample_statistics(samples: Floats, rng: np.random.Generator) -> Floats:
    """(N, F) values of (N, ...) samples; of more than `MAX_COLUMNS` as many, drawn at random."""
    flat = samples.reshape(len(samples), -1).astype(np.float64)
    if flat.shape[1] <= MAX_COLUMNS:
        return flat
    return flat[:, rng.choice(flat.shape[1], MAX_COLUMNS, replace=False)]


# --- the attack


def supervised_scores(
    statistics: Floats, is_member: Flags, groups: Groups, rng: np.random.Generator
) -> Floats:
    """Scores of one half, (N,): the higher, the rather a member; NaN for the half that is known.

    A ridge regression of membership on standardised statistics, that is, a linear discriminant,
    fitted on the known half. The scores of the other half are independent given the fit, so that
    intervals for them hold; those of cross-fitted scores would be too narrow.

    Args:
        statistics: (N, F), finite.
        is_member: (N,).
        groups: (N,) classes. A half gets as many members as non-members of a class, where there
            are as many: else the classes of one half would tell what the other lacks.
        rng: draws the halves.

    Raises:
        SettingsError: fewer members or non-members than `MIN_SAMPLES`.
    """
    fewest = int(min(is_member.sum(), (~is_member).sum()))
    if fewest < MIN_SAMPLES:
        raise SettingsError(
            f"{fewest} members or non-members; expected at least {MIN_SAMPLES} of each, bring more"
        )
    known = _known_half(is_member, groups, rng)
    scores = np.full(len(is_member), np.nan)
    scores[~known] = _ridge_scores(statistics[known], is_member[known], statistics[~known])
    return scores


def _known_half(is_member: Flags, groups: Groups, rng: np.random.Generator) -> Flags:
    known = np.empty(len(is_member), dtype=np.bool_)
    first = 0
    for group in np.unique(groups):
        size = 0
        for kind in (is_member, ~is_member):
            own = kind & (groups == group)
            size = max(size, int(own.sum()))
            known[own] = (first + rng.permutation(int(own.sum()))) % 2 == 0
        first += size
    return known


def _ridge_scores(known: Floats, is_member: Flags, unknown: Floats) -> Floats:
    middle, spread = known.mean(0), known.std(0)
    spread[spread < _SMALLEST] = 1.0
    design, rest = (known - middle) / spread, (unknown - middle) / spread
    target = np.where(is_member, 1.0, -1.0)
    strength = float(design.shape[1])
    gram = design.T @ design + strength * np.eye(design.shape[1])
    weights: Floats = np.linalg.solve(gram, design.T @ (target - target.mean()))
    scores: Floats = rest @ weights
    return scores


@dataclass(frozen=True, eq=False)
class MembershipFinding:
    """How well one attack tells members from others."""

    reads: tuple[str, ...]
    """Names of what it reads, such as ``logits``."""
    attack: str
    """``threshold`` on the margin or error of the logits, or ``learned``."""
    auc: Estimate
    """Area under the ROC curve; 0.5 is a guess."""
    tpr: Estimate
    """Members found where `LOW_FPR` of the others are accused wrongly."""
    added: Estimate | None
    """AUC above that of the learned attack on the logits alone; None where nothing is added."""
    scores: Floats
    """(N,) of members and others; NaN for those that the attacker knows."""


def attack_releases(
    released: Mapping[str, Floats],
    threshold: Floats | None,
    is_member: Flags,
    groups: Groups,
    rng: np.random.Generator,
) -> list[MembershipFinding]:
    """Attack everything that is released: the logits, each other release beside them, and all.

    Args:
        released: (N, F) statistics by name; `LOGITS` first, where they are released.
        threshold: (N,) scores by which the logits alone are attacked without learning; None
            where there are no logits.
        is_member: (N,).
        groups: (N,) classes.
        rng: of halves and intervals.

    Raises:
        SettingsError: too few samples.
    """
    findings, base = [], None
    if threshold is not None:
        findings.append(_finding((LOGITS,), "threshold", threshold, is_member))
    known_half = int(rng.integers(2**32))
    for reads in _combinations(tuple(released)):
        read = np.concatenate([released[name] for name in reads], axis=1)
        # The same half is known in each, so that their scores can be compared.
        scores = supervised_scores(read, is_member, groups, np.random.default_rng(known_half))
        added = None if base is None else _gain(scores, base, is_member, rng)
        findings.append(_finding(reads, "learned", scores, is_member, added))
        if reads == (LOGITS,):
            base = scores
    return findings


def control(
    samples: Floats, is_member: Flags, groups: Groups, rng: np.random.Generator
) -> MembershipFinding:
    """The learned attack on samples without any model: above a guess, the sets themselves differ.

    Args:
        samples: (N, ...) in [0, 1].
        is_member: (N,).
        groups: (N,) classes.
        rng: of the halves.
    """
    scores = supervised_scores(sample_statistics(samples, rng), is_member, groups, rng)
    return _finding((SAMPLES_ALONE,), "control", scores, is_member)


def _combinations(names: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The logits; each other name beside them; all, where that is something else."""
    base = tuple(name for name in names if name == LOGITS)
    others = [name for name in names if name != LOGITS]
    combined = [*([base] if base else []), *((*base, other) for other in others)]
    return [*combined, *([(*base, *others)] if len(others) > 1 else [])]


def _finding(
    reads: tuple[str, ...],
    attack: str,
    scores: Floats,
    is_member: Flags,
    added: Estimate | None = None,
) -> MembershipFinding:
    scored = ~np.isnan(scores)
    members, others = scores[is_member & scored], scores[~is_member & scored]
    return MembershipFinding(
        reads, attack, auc(members, others), tpr_at(LOW_FPR, members, others), added, scores
    )


def _gain(
    scores: Floats,
    base: Floats,
    is_member: Flags,
    rng: np.random.Generator,
    error: float = 0.05,
    draws: int = 200,
) -> Estimate:
    """AUC of ``scores`` above that of ``base``, with a bootstrap interval over samples."""
    scored = ~np.isnan(scores)
    members, others = np.flatnonzero(is_member & scored), np.flatnonzero(~is_member & scored)

    def gain(inside: NDArray[np.int64], outside: NDArray[np.int64]) -> float:
        return area(scores[inside], scores[outside]) - area(base[inside], base[outside])

    drawn = [
        gain(rng.choice(members, len(members)), rng.choice(others, len(others)))
        for _ in range(draws)
    ]
    low, high = np.quantile(drawn, [error / 2, 1 - error / 2])
    return Estimate(gain(members, others), float(low), float(high))


@dataclass(frozen=True, eq=False)
class MembershipAudit:
    """What an audit of one model by its owner has found."""

    subject: str
    """What was attacked, in words."""
    findings: tuple[MembershipFinding, ...]
    control: MembershipFinding
    is_member: Flags
    """(N,) of the samples that were attacked; as many members as others."""
    labels: Floats
    """(N,) classes; of numbers (N, K)."""
    left_out: int = 0
    """Other samples that were left out, since they are training samples too."""

    @property
    def strongest(self) -> MembershipFinding:
        """The finding with the greatest AUC."""
        return max(self.findings, key=lambda finding: finding.auc.value)

    @property
    def biased(self) -> bool:
        """Whether members and others differ before any model is asked."""
        return self.control.auc.low > 0.5

    @property
    def columns(self) -> dict[str, NDArray[np.generic]]:
        """Scores of every attack by its name, for `fedkd.privacy.score_export`."""
        labels = self.labels[:, None] if self.labels.ndim == 1 else self.labels
        names = ["label"] if self.labels.ndim == 1 else [f"true_{k}" for k in range(len(labels.T))]
        scored = {
            f"{'+'.join(each.reads)}:{each.attack}".replace(" ", "_"): each.scores
            for each in (*self.findings, self.control)
        }
        return {
            "member": self.is_member.astype(np.int64),
            **dict(zip(names, labels.T, strict=True)),
            **scored,
        }
