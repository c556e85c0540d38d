"""Membership inference attacks (LiRA, RMIA) with shadow models, and their ROC statistics.

An attacker compares a model's output on an image with those of shadow models that were trained with
and without it. The result is a ROC curve. What counts is its left end, at low false positive rates:
an attack that finds a few members with certainty has a mean accuracy of a half.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from fedkd.errors import SettingsError
from fedkd.privacy.empirical_epsilon import clopper_pearson

Floats: TypeAlias = NDArray[np.float64]
Flags: TypeAlias = NDArray[np.bool_]
Scored: TypeAlias = tuple[Floats, Floats]
"""Scores of members, scores of non-members."""
_SMALLEST = 1e-12
"""Lower bound on probabilities and deviations by which is divided."""


# --- confidence in the right class


def margin(logits: Floats, labels: NDArray[np.int64]) -> Floats:
    """log(p / (1 - p)) of the label's probability: (N, K) logits and (N,) labels -> (N,)."""
    rows = np.arange(len(labels))
    others = logits.astype(np.float64)
    own = others[rows, labels].copy()
    others[rows, labels] = -np.inf
    rest: Floats = special.logsumexp(others, axis=1)
    return own - rest


# --- scores


def lira(target: Floats, shadows: Floats, inside: Flags, online: bool = True) -> Floats:
    """LiRA: likelihood ratios of Carlini et al. (2022), Gaussians with one shared variance, (N,).

    They advise one variance for all images where shadow models are few. An image that has no shadow
    model on one side takes the mean over the images that have some.

    Args:
        target: (N,) `margin` of the attacked model.
        shadows: (M, N) of the shadow models.
        inside: (M, N) whether shadow model m was trained on image n.
        online: compare with shadow models inside and outside; otherwise only with those outside,
            and the score is how far above them the target is, in standard deviations.

    Raises:
        SettingsError: shapes that do not fit, or no shadow model on a side that is needed.
    """
    _check_shadows(target, shadows, inside)
    without, deviation = _fitted(shadows, ~inside)
    above: Floats = (target - without) / deviation
    if not online:
        return above
    within, spread = _fitted(shadows, inside)
    beside: Floats = (target - within) / spread
    ratio: Floats = (above**2 - beside**2) / 2 + np.log(deviation / spread)
    return ratio


def _fitted(shadows: Floats, taken: Flags) -> tuple[Floats, float]:
    """Means (N,) of the ``taken`` values, and the common standard deviation around them."""
    means = _means(shadows, taken)
    counts = taken.sum(0)
    freedom = max(1, int((counts - 1).clip(0).sum()))
    squares = np.where(taken, (shadows - means) ** 2, 0.0).sum()
    return means, max(float(np.sqrt(squares / freedom)), _SMALLEST)


def _means(values: Floats, taken: Flags) -> Floats:
    counts = taken.sum(0)
    if not counts.any():
        raise SettingsError(
            "no shadow model on one side; train some with and some without the images"
        )
    means: Floats = np.where(taken, values, 0.0).sum(0) / np.maximum(counts, 1)
    return np.where(counts > 0, means, means[counts > 0].mean())


@dataclass(frozen=True, eq=False)
class Population:
    """Outputs of the same models on images that none of them was trained on."""

    target: Floats
    """(Z,) probability of the right class under the attacked model."""
    shadows: Floats
    """(M, Z) under the shadow models."""


def rmia(
    target: Floats,
    shadows: Floats,
    inside: Flags,
    population: Population,
    *,
    gamma: float = 1.0,
    offline: float | None = None,
) -> Floats:
    """RMIA: share of the population that each image dominates, (N,) in [0, 1].

    An image dominates another where the ratio of the attacked model's probability of its label to
    the shadow models' mean is ``gamma`` times as large (Zarifzadeh et al., 2024).

    Args:
        target: (N,) probability of the right class under the attacked model.
        shadows: (M, N) under the shadow models.
        inside: (M, N) whether shadow model m was trained on image n.
        population: of other images.
        gamma: > 0.
        offline: None: the mean is taken over shadow models inside and outside. A number a in
            [0, 1]: only those outside are used, and their mean p becomes ((1 + a) p + 1 - a) / 2.

    Raises:
        SettingsError: shapes that do not fit, an empty population, or a number out of range.
    """
    _check_shadows(target, shadows, inside)
    size = len(population.target)
    if population.shadows.shape != (len(shadows), size) or not size:
        raise SettingsError(
            f"a population of {population.target.shape} and {population.shadows.shape}; expected "
            f"(Z,), Z > 0, and ({len(shadows)}, Z)"
        )
    if not gamma > 0 or not (offline is None or 0 <= offline <= 1):
        raise SettingsError(f"gamma {gamma}, offline {offline}; expected > 0, and 0 to 1")
    without, others = _means(shadows, ~inside), population.shadows.mean(0)
    if offline is None:
        mean = (without + _means(shadows, inside)) / 2
    else:
        mean = ((1 + offline) * without + 1 - offline) / 2
        others = ((1 + offline) * others + 1 - offline) / 2
    ratio = target / np.maximum(mean, _SMALLEST)
    population_ratios = np.sort(population.target / np.maximum(others, _SMALLEST))
    return np.searchsorted(population_ratios, ratio / gamma, side="right") / size


def _check_shadows(target: Floats, shadows: Floats, inside: Flags) -> None:
    if target.ndim != 1 or shadows.shape != inside.shape or shadows.shape[1:] != target.shape:
        raise SettingsError(
            f"target {target.shape}, shadows {shadows.shape}, inside {inside.shape}; expected "
            f"(N,), (M, N) and (M, N)"
        )


# --- ROC statistics


@dataclass(frozen=True)
class Estimate:
    """A value and its confidence interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def roc(members: Floats, others: Floats) -> tuple[Floats, Floats]:
    """(FPR, TPR) at every threshold, from (0, 0) to (1, 1); equal scores are classified alike."""
    _check_scores(members, others)
    thresholds = np.unique(np.concatenate([members, others]))[::-1]
    tpr, fpr = _share_from(members, thresholds), _share_from(others, thresholds)
    return np.concatenate([[0.0], fpr]), np.concatenate([[0.0], tpr])


def auc(members: Floats, others: Floats, error: float = 0.05) -> Estimate:
    """Area under the ROC curve, ties count one half; for one attacked model.

    The interval is Wilson's for as many trials as the smaller number of scores: the variance of
    this statistic is at most that (Birnbaum and Klose, 1957), whatever the distributions.
    """
    value = area(members, others)
    trials, z = min(len(members), len(others)), float(stats.norm.isf(error / 2))
    middle = (value + z**2 / (2 * trials)) / (1 + z**2 / trials)
    reach = z * np.sqrt(value * (1 - value) / trials + z**2 / (4 * trials**2))
    reach = float(reach / (1 + z**2 / trials))
    return Estimate(value, max(0.0, middle - reach), min(1.0, middle + reach))


def area(members: Floats, others: Floats) -> float:
    """The value of `auc`, without an interval."""
    _check_scores(members, others)
    ranks = stats.rankdata(np.concatenate([members, others]))[: len(members)].sum()
    own = len(members) * (len(members) + 1) / 2
    return float((ranks - own) / (len(members) * len(others)))


def tpr_at(fpr: float, members: Floats, others: Floats, error: float = 0.05) -> Estimate:
    """TPR at the lowest threshold whose FPR is at most ``fpr``; for one attacked model.

    The interval is Clopper and Pearson's, for a given threshold.
    """
    value = true_positives(fpr, members, others)
    low, high = clopper_pearson(round(value * len(members)), len(members), error)
    return Estimate(value, low, high)


def true_positives(fpr: float, members: Floats, others: Floats) -> float:
    """The value of `tpr_at` alone; 0 where too many others share the highest score."""
    false, true = roc(members, others)
    return float(true[false <= fpr][-1])


def bootstrap_over_models(
    statistic: Callable[[Floats, Floats], float],
    models: Sequence[Scored],
    rng: np.random.Generator,
    error: float = 0.05,
    draws: int = 200,
) -> Estimate:
    """A statistic of the pooled scores of several attacked models, with a bootstrap interval.

    Whole models are resampled, since the scores of one model depend on each other. With few models
    such an interval is somewhat too narrow.

    Args:
        statistic: of the scores of members, and of others.
        models: scores for each of them.
        rng: of the resampling.
        error: approximate probability that the interval misses the truth, in (0, 1).
        draws: >= 1.
    """
    drawn = [rng.integers(len(models), size=len(models)) for _ in range(draws)]
    values = [statistic(*pooled([models[i] for i in picked])) for picked in drawn]
    low, high = np.quantile(values, [error / 2, 1 - error / 2])
    return Estimate(statistic(*pooled(models)), float(low), float(high))


def pooled(models: Sequence[Scored]) -> Scored:
    """The scores of several models, concatenated."""
    members, others = zip(*models, strict=True)
    return np.concatenate(members), np.concatenate(others)


def _share_from(scores: Floats, thresholds: Floats) -> Floats:
    below = np.searchsorted(np.sort(scores), thresholds, side="left")
    return (len(scores) - below) / len(scores)


def _check_scores(members: Floats, others: Floats) -> None:
    if members.ndim != 1 or others.ndim != 1 or not len(members) or not len(others):
        raise SettingsError(
            f"scores of {members.shape} members and {others.shape} others; expected (n,) each, "
            f"n > 0"
        )
