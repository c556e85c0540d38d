"""Empirical lower bounds on epsilon, from scores of releases or guesses about canaries.

A bound above a claimed epsilon refutes the claim, with the stated probability of an error. A bound
below it proves nothing: a better attack or more trials may still find what this one missed.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from fedkd.errors import SettingsError

Floats: TypeAlias = NDArray[np.float64]

THRESHOLDS = 512
"""Most thresholds that are tried, evenly spaced over the scores."""
MAX_EPSILON = 64.0
"""Largest epsilon of a one-run bound; no audit of this size comes near it."""


# --- rates


def clopper_pearson(successes: int, trials: int, error: float = 0.05) -> tuple[float, float]:
    """Exact confidence interval of a rate; each end is wrong with probability ``error / 2``.

    Raises:
        SettingsError: impossible counts, or a probability out of range.
    """
    _check_error(error)
    if trials < 1 or not 0 <= successes <= trials:
        raise SettingsError(f"{successes} successes in {trials} trials; expected 0 to {trials}")
    low, high = _rate_bounds(np.array([float(successes)]), trials, error / 2)
    return float(low[0]), float(high[0])


def _rate_bounds(successes: Floats, trials: int, error: float) -> tuple[Floats, Floats]:
    """Bounds for many counts at once; each is wrong with probability ``error`` at most."""
    with np.errstate(invalid="ignore"):
        low = special.betaincinv(successes, trials - successes + 1, error)
        high = special.betaincinv(successes + 1, trials - successes, 1 - error)
    return np.where(successes == 0, 0.0, low), np.where(successes == trials, 1.0, high)


# --- two neighbouring inputs


def epsilon_of_rates(tpr: float, fpr: float, delta: float) -> float:
    """The smallest epsilon that allows a test with these rates; inf where none does.

    At (epsilon, delta) TPR <= e^epsilon FPR + delta, and the same for the true and false negatives.
    """
    return float(_epsilons(np.array([tpr]), np.array([fpr]), delta)[0])


def _epsilons(tpr: Floats, fpr: Floats, delta: float) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        positives = np.log(np.maximum(tpr - delta, 0)) - np.log(fpr)
        negatives = np.log(np.maximum(1 - fpr - delta, 0)) - np.log1p(-tpr)
    best = np.fmax(positives, negatives)
    return np.maximum(np.where(np.isnan(best), 0.0, best), 0.0)


@dataclass(frozen=True)
class Distinguished:
    """How well a test distinguished the releases of two neighbouring inputs."""

    epsilon: float
    """Lower bound at ``delta``, >= 0; wrong with probability ``error`` at most."""
    delta: float
    error: float
    threshold: float
    """Scores above it were attributed to the first input."""
    tpr: float
    """Lower bound on the probability that a score of the first input is above it."""
    fpr: float
    """Upper bound on the same for the second."""
    trials: int
    """Scores of each input on which the bound was computed; as many chose the threshold."""


def distinguish(one: Floats, other: Floats, delta: float, error: float = 0.05) -> Distinguished:
    """A lower bound on epsilon from scores of releases of two neighbouring inputs.

    The first half of the scores chooses the threshold, only the second half is counted. So the
    bound holds however the threshold, and the score itself, were fitted to the first half.

    Args:
        one: (n,) scores of independent releases of one input, greater where they look more like it.
        other: (n,) of its neighbour; as many.
        delta: at which epsilon is bounded, in [0, 1).
        error: probability that the bound is above the truth, in (0, 1).

    Raises:
        SettingsError: fewer than four scores, different numbers of them, NaN, or a probability out
            of range.
    """
    _check_error(error)
    _check_delta(delta)
    if one.shape != other.shape or one.ndim != 1 or len(one) < 4:
        raise SettingsError(f"scores {one.shape} and {other.shape}; expected (n,) twice, n >= 4")
    if np.isnan(one).any() or np.isnan(other).any():
        raise SettingsError("a score is not a number; expected finite scores")
    half = len(one) // 2
    # Only the scores themselves are candidates: between two of them nothing changes.
    scores = np.unique(np.concatenate([one[:half], other[:half]]))
    indices = np.linspace(0, len(scores) - 1, min(THRESHOLDS, len(scores))).round().astype(int)
    tried = scores[indices]
    threshold = float(tried[np.argmax(_bounds(one[:half], other[:half], tried, delta, error)[0])])
    epsilon, tpr, fpr = _bounds(one[half:], other[half:], np.array([threshold]), delta, error)
    trials = len(one) - half
    return Distinguished(
        float(epsilon[0]), delta, error, threshold, float(tpr[0]), float(fpr[0]), trials
    )


def _bounds(
    one: Floats, other: Floats, thresholds: Floats, delta: float, error: float
) -> tuple[Floats, Floats, Floats]:
    """Lower bounds on epsilon and on TPR, upper bounds on FPR, each (thresholds,)."""
    tpr, _ = _rate_bounds(_above(one, thresholds), len(one), error / 2)
    _, fpr = _rate_bounds(_above(other, thresholds), len(other), error / 2)
    return _epsilons(tpr, fpr, delta), tpr, fpr


def _above(scores: Floats, thresholds: Floats) -> Floats:
    below = np.searchsorted(np.sort(scores), thresholds, side="right")
    return (len(scores) - below).astype(np.float64)


# --- one training with many canaries (Steinke, Nasr and Jagielski, 2023)


def one_run_p_value(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """Upper bound on the probability of so many right guesses under (epsilon, delta)-DP.

    Each canary is in the training set by a fair coin of its own, and ``guesses`` of them are
    guessed. The theorem bounds the probability of ``right`` or more right guesses by

        P[B >= v] + 2 m delta max_i P[v > B >= v - i] / i,   B ~ Bin(r, e^epsilon / (e^epsilon + 1))

    Args:
        canaries: m, >= 1.
        guesses: r in 0..m, fixed before the canaries are scored.
        right: v in 0..r.
        epsilon: >= 0.
        delta: in [0, 1).

    Raises:
        SettingsError: a number out of range.
    """
    _check_delta(delta)
    if not (canaries >= 1 and 0 <= right <= guesses <= canaries and epsilon >= 0):
        raise SettingsError(
            f"{right} of {guesses} guesses on {canaries} canaries at epsilon {epsilon}; expected "
            f"0 <= right <= guesses <= canaries and epsilon >= 0"
        )
    luck = stats.binom(guesses, special.expit(epsilon))
    chance = float(luck.sf(right - 1))
    if delta > 0 and right > 0:
        steps = np.arange(1, right + 1)
        below = np.cumsum(luck.pmf(right - steps))  # P[v > B >= v - i]
        chance += 2 * canaries * delta * float((below / steps).max())
    return min(1.0, chance)


def one_run_epsilon(
    canaries: int, guesses: int, right: int, delta: float, error: float = 0.05
) -> float:
    """The largest epsilon that so many right guesses refute; 0 where they refute none.

    Args:
        canaries: m, >= 1.
        guesses: r in 0..m, fixed before the canaries are scored.
        right: v in 0..r.
        delta: in [0, 1).
        error: probability that the bound is above the truth, in (0, 1).

    Raises:
        SettingsError: a number out of range.
    """
    _check_error(error)
    if one_run_p_value(canaries, guesses, right, 0.0, delta) >= error:
        return 0.0
    low, high = 0.0, MAX_EPSILON
    while high - low > 1e-6:
        middle = (low + high) / 2
        if one_run_p_value(canaries, guesses, right, middle, delta) < error:
            low = middle
        else:
            high = middle
    return low


def correct_guesses(scores: Floats, inside: NDArray[np.bool_], guesses: int) -> int:
    """Right guesses: the highest half of ``guesses`` is guessed to be in, the lowest to be out.

    Args:
        scores: (m,) greater where a canary looks more like one that was trained on.
        inside: (m,) whether each canary was in the training set.
        guesses: r in 0..m; the canaries in between are not guessed.

    Raises:
        SettingsError: more guesses than canaries, or shapes that do not fit.
    """
    if scores.shape != inside.shape or scores.ndim != 1 or not 0 <= guesses <= len(scores):
        raise SettingsError(
            f"{guesses} guesses, scores {scores.shape}, inside {inside.shape}; expected (m,) twice "
            f"and at most m guesses"
        )
    order = np.argsort(scores, kind="stable")
    lowest, highest = order[: guesses // 2], order[len(order) - (guesses - guesses // 2) :]
    return int((~inside[lowest]).sum() + inside[highest].sum())


def _check_error(error: float) -> None:
    if not 0 < error < 1:
        raise SettingsError(f"probability of an error {error}; expected in (0, 1)")


def _check_delta(delta: float) -> None:
    if not 0 <= delta < 1:
        raise SettingsError(f"delta {delta}; expected in [0, 1)")
