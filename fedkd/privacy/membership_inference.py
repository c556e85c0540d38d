"""Whether an image was trained on, from what models say of it. Knows matrices, and no model.

An attacker compares what a model says of an image with what shadow models say that were trained
with it and without it. How well that goes is a ROC curve. What counts is its left end, where few
are accused wrongly: an attack that names a few members for certain has a mean accuracy of a half.
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
"""Scores of members, scores of all others."""
_SMALLEST = 1e-12
"""Probability below which one is as good as another."""


# --- what a model says of the right class


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
    """Likelihood ratios of Carlini et al. (2022) with Gaussians that share one variance, (N,).

    One variance for all images is what they advise where shadows are few. An image that no shadow
    has on the one side takes the mean of the images that are there.

    Args:
        target: (N,) `margin` of the attacked model.
        shadows: (M, N) of the shadows.
        inside: (M, N) whether shadow m was trained on image n.
        online: compare with shadows inside and outside; otherwise only with those outside, and
            the score is how far above them the target is, in standard deviations.

    Raises:
        SettingsError: shapes that do not fit, or no shadow at all on a side that is needed.
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
    """Means (N,) of the taken, and the standard deviation around them."""
    means = _means(shadows, taken)
    counts = taken.sum(0)
    freedom = max(1, int((counts - 1).clip(0).sum()))
    squares = np.where(taken, (shadows - means) ** 2, 0.0).sum()
    return means, max(float(np.sqrt(squares / freedom)), _SMALLEST)


def _means(values: Floats, taken: Flags) -> Floats:
    counts = taken.sum(0)
    if not counts.any():
        raise SettingsError("no shadow on one side; train some with and some without the images")
    means: Floats = np.where(taken, values, 0.0).sum(0) / np.maximum(counts, 1)
    return np.where(counts > 0, means, means[counts > 0].mean())


@dataclass(frozen=True, eq=False)
class Population:
    """What the same models say of images that none of them was trained on."""

    target: Floats
    """(Z,) probability of the right class under the attacked model."""
    shadows: Floats
    """(M, Z) under the shadows."""


def rmia(
    target: Floats,
    shadows: Floats,
    inside: Flags,
    population: Population,
    *,
    gamma: float = 1.0,
    offline: float | None = None,
) -> Floats:
    """Share of the population that each image dominates, (N,) in [0, 1]: Zarifzadeh et al. (2024).

    An image dominates another where the attacked model, compared with the shadows' mean, has come
    to believe in its label ``gamma`` times as much more.

    Args:
        target: (N,) probability of the right class under the attacked model.
        shadows: (M, N) under the shadows.
        inside: (M, N) whether shadow m was trained on image n.
        population: of other images.
        gamma: > 0.
        offline: None: the mean is taken over shadows inside and outside. A number in [0, 1]: only
            shadows outside are used, and their mean p stands for ((1 + a) p + 1 - a) / 2.

    Raises:
        SettingsError: shapes that do not fit, an empty population, or a number out of range.
    """
    _check_shadows(target, shadows, inside)
    of = population
    if of.shadows.shape != (len(shadows), len(of.target)) or not len(of.target):
        raise SettingsError(
            f"a population of {of.target.shape} and {of.shadows.shape}; expected (Z,), Z > 0, and "
            f"({len(shadows)}, Z)"
        )
    if not gamma > 0 or not (offline is None or 0 <= offline <= 1):
        raise SettingsError(f"gamma {gamma}, offline {offline}; expected > 0, and 0 to 1")
    without, others = _means(shadows, ~inside), of.shadows.mean(0)
    if offline is None:
        usual = (without + _means(shadows, inside)) / 2
    else:
        usual = ((1 + offline) * without + 1 - offline) / 2
        others = ((1 + offline) * others + 1 - offline) / 2
    ratio = target / np.maximum(usual, _SMALLEST)
    theirs = np.sort(of.target / np.maximum(others, _SMALLEST))
    return np.searchsorted(theirs, ratio / gamma, side="right") / len(theirs)


def _check_shadows(target: Floats, shadows: Floats, inside: Flags) -> None:
    if target.ndim != 1 or shadows.shape != inside.shape or shadows.shape[1:] != target.shape:
        raise SettingsError(
            f"target {target.shape}, shadows {shadows.shape}, inside {inside.shape}; expected "
            f"(N,), (M, N) and (M, N)"
        )


# --- how well it went


@dataclass(frozen=True)
class Estimate:
    """A figure and its interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def roc(members: Floats, others: Floats) -> tuple[Floats, Floats]:
    """(FPR, TPR) at every threshold, from (0, 0) to (1, 1); equal scores are accused together."""
    _check_scores(members, others)
    thresholds = np.unique(np.concatenate([members, others]))[::-1]
    tpr, fpr = _share_from(members, thresholds), _share_from(others, thresholds)
    return np.concatenate([[0.0], fpr]), np.concatenate([[0.0], tpr])


def auc(members: Floats, others: Floats, error: float = 0.05) -> Estimate:
    """Chance that a member scores above another image, ties by half; for one attacked model.

    The interval is Wilson's, as if the lesser number of scores were so many coins: the variance of
    this statistic is at most that (Birnbaum and Klose, 1957), whatever the distributions.
    """
    value = area(members, others)
    trials, z = min(len(members), len(others)), float(stats.norm.isf(error / 2))
    middle = (value + z**2 / (2 * trials)) / (1 + z**2 / trials)
    reach = z * np.sqrt(value * (1 - value) / trials + z**2 / (4 * trials**2))
    reach = float(reach / (1 + z**2 / trials))
    return Estimate(value, max(0.0, middle - reach), min(1.0, middle + reach))


def area(members: Floats, others: Floats) -> float:
    """The value of `auc`."""
    _check_scores(members, others)
    ranks = stats.rankdata(np.concatenate([members, others]))[: len(members)].sum()
    own = len(members) * (len(members) + 1) / 2
    return float((ranks - own) / (len(members) * len(others)))


def tpr_at(fpr: float, members: Floats, others: Floats, error: float = 0.05) -> Estimate:
    """TPR at the lowest threshold whose FPR is at most ``fpr``; for one attacked model.

    The interval is Clopper and Pearson's, and takes the threshold as given.
    """
    value = true_positives(fpr, members, others)
    low, high = clopper_pearson(round(value * len(members)), len(members), error)
    return Estimate(value, low, high)


def true_positives(fpr: float, members: Floats, others: Floats) -> float:
    """The value of `tpr_at`; 0 where even the highest score is shared by too many others."""
    false, true = roc(members, others)
    return float(true[false <= fpr][-1])


def bootstrap_over_models(
    statistic: Callable[[Floats, Floats], float],
    models: Sequence[Scored],
    rng: np.random.Generator,
    error: float = 0.05,
    draws: int = 200,
) -> Estimate:
    """A statistic of the scores of several attacked models together, with a bootstrap interval.

    Whole models are drawn again, since the scores of one model depend on each other. With few
    models such an interval is somewhat too narrow.

    Args:
        statistic: of the scores of members, and of others.
        models: scores for each of them.
        rng: draws them.
        error: chance that the interval misses, in (0, 1), about.
        draws: >= 1.
    """
    drawn = [rng.integers(len(models), size=len(models)) for _ in range(draws)]
    values = [statistic(*pooled([models[i] for i in picked])) for picked in drawn]
    low, high = np.quantile(values, [error / 2, 1 - error / 2])
    return Estimate(statistic(*pooled(models)), float(low), float(high))


def pooled(models: Sequence[Scored]) -> Scored:
    """The scores of several models as one."""
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
