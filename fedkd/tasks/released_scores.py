"""Scores that institutions release, pooled into those of all their test samples together.

Of classes an institution releases a share of right answers; of several tasks, counts of right ones
in each; of numbers, sums over its test rows by which R^2, RMSE and MAE of all rows are what one
table of them would give.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from fedkd.core.task import Score
from fedkd.protocol import NamedTask, Number, task_slices

EXAMPLES, ACCURACY = "num-examples", "accuracy"
SUMS = ("rows", "squared_error", "absolute_error", "sum", "sum_of_squares")
"""Of numbers, each (K,): how many rows; errors of the student; the truth. In shares of ranges."""
NumberSums: TypeAlias = Mapping[str, list[float]]
"""`SUMS` by name."""
COUNTS = ("task_rows", "task_right", "all_rows", "all_right")
"""Of several tasks: test samples and right answers of each, (M,) in the student's order; samples of
which all tasks are labelled, (1,), and those of which all are right, (1,)."""
TaskCounts: TypeAlias = Mapping[str, list[int]]
"""`COUNTS` by name."""
ReleasedScore: TypeAlias = Mapping[str, Any]
"""`EXAMPLES` and `ACCURACY`, or `EXAMPLES` and `SUMS` or `COUNTS`."""


def number_sums(outputs: Tensor, truth: Tensor) -> dict[str, list[float]]:
    """Sums over rows of a student's outputs (N, K) and the truth (N, K), NaN where it is unknown.

    They tell the mean and the variance of the truth.
    """
    known = ~truth.isnan()
    own = truth.nan_to_num().double()
    error = torch.where(known, outputs - truth, 0.0).double()
    each = (known.double(), error.square(), error.abs(), own, own.square())
    return {name: of.sum(0).tolist() for name, of in zip(SUMS, each, strict=True)}


def task_counts(
    outputs: Tensor, of_student: Sequence[NamedTask], own: Sequence[NamedTask], truth: Tensor
) -> dict[str, list[int]]:
    """Counts of a student's right answers to test samples.

    Args:
        outputs: (N, K), of the student.
        of_student: its M tasks, all of ``own`` among them.
        own: the tasks that are labelled.
        truth: (N, len(own)), the class of each in its own order. A class that the student has no
            output for counts as wrong.
    """
    slices, place = task_slices(of_student), {t.name: p for p, t in enumerate(of_student)}
    rows, right = [0] * len(of_student), [0] * len(of_student)
    every = torch.ones(len(truth), dtype=torch.bool)
    for column, task in enumerate(own):
        known = list(of_student[place[task.name]].class_names)
        output = torch.tensor([known.index(n) if n in known else -1 for n in task.class_names])
        correct = outputs[:, slices[task.name]].argmax(1) == output[truth[:, column]]
        rows[place[task.name]], right[place[task.name]] = len(truth), int(correct.sum())
        every &= correct
    whole = len(own) == len(of_student)
    together = [len(truth) * whole], [int(every.sum()) * whole]
    return dict(zip(COUNTS, (rows, right, *together), strict=True))


def released_score(score: tuple[int, int] | NumberSums | TaskCounts | None) -> ReleasedScore:
    """What an institution sends of its scores; nothing without samples."""
    if score is None:
        return {}
    if isinstance(score, Mapping):
        rows = int(max(score.get("rows") or score.get("task_rows") or (), default=0))
        return {EXAMPLES: rows, **score} if rows else {}
    correct, examples = score
    return {EXAMPLES: examples, ACCURACY: correct / examples} if examples else {}


def pooled_accuracy(released: Sequence[ReleasedScore]) -> dict[str, float | None]:
    """Share of right answers on the test samples of all; None where nobody releases it."""
    known = [(each[EXAMPLES], each[ACCURACY]) for each in released if _is_accuracy(each)]
    count = sum(examples for examples, _ in known)
    return {ACCURACY: sum(examples * own for examples, own in known) / count if count else None}


def pooled_task_accuracies(
    names: Sequence[str], released: Sequence[ReleasedScore]
) -> dict[str, Score]:
    """Accuracy of each task, their mean, and the share of samples of which all tasks are right.

    Args:
        names: of the student's M tasks.
        released: counts of each institution; what is none is left out.

    Returns:
        None for what nobody can tell; all tasks together only institutions that label all of them.
    """
    known = [each for each in released if _is_counts(each, len(names))]
    rows, right = (
        [sum(of) for of in zip(*(each[name] for each in known), strict=True)] or [0] * len(names)
        for name in COUNTS[:2]
    )
    every, correct = (sum(each[name][0] for each in known) for name in COUNTS[2:])
    shares = {n: c / r if r else None for n, r, c in zip(names, rows, right, strict=True)}
    answered = [share for share in shares.values() if share is not None]
    return {
        "all_tasks_accuracy": correct / every if every else None,
        "accuracy": sum(answered) / len(answered) if answered else None,
        "task_accuracy": shares,
    }


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


def flat_scores(scores: Mapping[str, Score]) -> dict[str, float]:
    """What is known of scores, those by name of task as ``score/task``: Flower nests no metrics."""
    flat: dict[str, float] = {}
    for name, score in scores.items():
        if isinstance(score, Mapping):
            flat |= {f"{name}/{task}": own for task, own in score.items() if own is not None}
        elif score is not None:
            flat[name] = score
    return flat


def nested_scores(flat: Mapping[str, float]) -> dict[str, Score]:
    """The reverse of `flat_scores`."""
    nested: dict[str, dict[str, float | None]] = {}
    for name, score in flat.items():
        of, slash, task = name.partition("/")
        if slash:
            nested.setdefault(of, {})[task] = score
    return {**{name: score for name, score in flat.items() if "/" not in name}, **nested}


def _is_accuracy(score: ReleasedScore) -> bool:
    examples, own = score.get(EXAMPLES), score.get(ACCURACY, math.nan)
    return isinstance(examples, int) and examples > 0 and _is_finite(own) and bool(0 <= own <= 1)


def _is_sums(score: ReleasedScore, count: int) -> bool:
    lists = [score.get(name) for name in SUMS]
    return all(
        isinstance(own, list | tuple) and len(own) == count and all(map(_is_finite, own))
        for own in lists
    ) and all(value >= 0 for own in lists[:3] for value in own or ())


def _is_counts(score: ReleasedScore, tasks: int) -> bool:
    sizes = dict(zip(COUNTS, (tasks, tasks, 1, 1), strict=True))
    for name, size in sizes.items():
        own = score.get(name)
        if not isinstance(own, list | tuple) or len(own) != size:
            return False
        if not all(isinstance(value, int) and value >= 0 for value in own):
            return False
    pairs = [
        *zip(*(score[n] for n in COUNTS[:2]), strict=True),
        (score[COUNTS[2]][0], score[COUNTS[3]][0]),
    ]
    return all(right <= rows for rows, right in pairs)


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
