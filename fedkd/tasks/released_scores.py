"""Scores that institutions release, pooled into those of all their test samples together.

Of classes an institution releases a share of right answers; of numbers, sums over its test rows by
which R^2, RMSE and MAE of all rows are what one table of them would give.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from fedkd.protocol import Number

EXAMPLES, ACCURACY = "num-examples", "accuracy"
SUMS = ("rows", "squared_error", "absolute_error", "sum", "sum_of_squares")
"""Of numbers, each (K,): how many rows; errors of the student; the truth. In shares of ranges."""
NumberSums: TypeAlias = Mapping[str, list[float]]
"""`SUMS` by name."""
ReleasedScore: TypeAlias = Mapping[str, Any]
"""`EXAMPLES` and `ACCURACY`, or `EXAMPLES` and `SUMS`."""


def number_sums(outputs: Tensor, truth: Tensor) -> dict[str, list[float]]:
    """Sums over rows of a student's outputs (N, K) and the truth (N, K), NaN where it is unknown.

    They tell the mean and the variance of the truth.
    """
    known = ~truth.isnan()
    own, error = truth.nan_to_num().double(), (outputs - truth).nan_to_num().double()
    each = (known.double(), error.square(), error.abs(), own, own.square())
    return {name: of.sum(0).tolist() for name, of in zip(SUMS, each, strict=True)}


def released_score(score: tuple[int, int] | NumberSums | None) -> ReleasedScore:
    """What an institution sends of (correct, of how many) or of sums; nothing without samples."""
    if score is None:
        return {}
    if isinstance(score, Mapping):
        rows = int(max(score["rows"], default=0))
        return {EXAMPLES: rows, **score} if rows else {}
    correct, examples = score
    return {EXAMPLES: examples, ACCURACY: correct / examples} if examples else {}


def pooled_accuracy(released: Sequence[ReleasedScore]) -> dict[str, float | None]:
    """Share of right answers on the test samples of all; None where nobody releases it."""
    known = [(each[EXAMPLES], each[ACCURACY]) for each in released if _is_accuracy(each)]
    count = sum(examples for examples, _ in known)
    return {ACCURACY: sum(examples * own for examples, own in known) / count if count else None}


def pooled_number_scores(
    numbers: Sequence[Number], released: Sequence[ReleasedScore]
) -> dict[str, float | None]:
    """R^2, the mean over numbers; of one number also RMSE and MAE in its unit.

    Args:
        numbers: (K,) with their ranges.
        released: sums of each institution; what is none is left out.

    Returns:
        None for R^2 where a number does not vary, and for all where nobody releases sums.
    """
    known = [each for each in released if _is_sums(each, len(numbers))]
    sums = torch.tensor([[each[name] for name in SUMS] for each in known], dtype=torch.float64)
    if not known or not bool((sums[:, 0].sum(0) > 0).all()):
        return dict.fromkeys(("r2", "rmse", "mae") if len(numbers) == 1 else ("r2",))
    rows, squared, absolute, total, squares = sums.sum(0)
    spread = squares - total.square() / rows
    varies = bool((spread > 1e-9 * rows).all())
    scores: dict[str, float | None] = {
        "r2": float((1 - squared / spread).mean()) if varies else None
    }
    if len(numbers) == 1:
        span = numbers[0].high - numbers[0].low
        scores["rmse"] = span * float((squared / rows).sqrt())
        scores["mae"] = span * float(absolute / rows)
    return scores


def _is_accuracy(score: ReleasedScore) -> bool:
    examples, own = score.get(EXAMPLES), score.get(ACCURACY, math.nan)
    return isinstance(examples, int) and examples > 0 and _is_finite(own) and bool(0 <= own <= 1)


def _is_sums(score: ReleasedScore, count: int) -> bool:
    lists = [score.get(name) for name in SUMS]
    return all(
        isinstance(own, list | tuple) and len(own) == count and all(map(_is_finite, own))
        for own in lists
    ) and all(value >= 0 for own in lists[:3] for value in own or ())


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
