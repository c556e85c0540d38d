"""The page's table of student metrics: stability, agreement, fidelity, recall."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from fedkd.server.report.formatting import count, decimals, duration, percent
from fedkd.server.report.records.result_schema import StudentScore

_NAMED_CLASSES = 5
"""Classes of the lowest recall that are named."""
_POINTS = 100.0
"""Percentage points in a share of 1."""


@dataclass(frozen=True)
class Metric:
    """One row: name, value and explanation."""

    label: str
    value: str
    note: str


def class_metrics(student: StudentScore) -> list[Metric]:
    """The metrics of a student of classes that were measured."""
    rows = [
        *_stability(
            "all scores",
            student.mean_accuracy,
            student.variance_of_accuracy,
            f"over all {student.scores or ''} scores, evenly spaced over the student's steps, "
            "the first before it has learned anything",
        ),
        *_stability(
            "last half",
            student.mean_accuracy_last_half,
            student.variance_of_accuracy_last_half,
            "over the last half of them",
        ),
    ]
    if student.agreement is not None:
        note = "of the test samples: student and ensemble name the same class"
        rows.append(Metric("Agreement", percent(student.agreement), note))
    if student.fidelity is not None:
        note = (
            "mean of 1 − √JSD between the probabilities of student and ensemble, JSD by the "
            "natural logarithm; 1 where all are alike, 0.167 at the least"
        )
        rows.append(Metric("Probability fidelity", f"{student.fidelity:.3f}", note))
    if student.fidelity_double_root is not None:
        note = (
            "mean of 1 − √√JSD: the released code of CuDFKD takes the root twice; only for "
            "comparison with figures printed from it"
        )
        value = f"{student.fidelity_double_root:.3f}"
        rows.append(Metric("The same, double root", value, note))
    if recall := _known(student.recall):
        mean = sum(recall.values()) / len(recall)
        least = sorted(recall.items(), key=lambda item: item[1])[:_NAMED_CLASSES]
        named = ", ".join(f"{name}: {percent(share)}" for name, share in least)
        rows.append(Metric("Mean recall of a class", percent(mean), f"least: {named}"))
    return [*rows, *_to_95(student, "accuracy")]


def number_metrics(student: StudentScore) -> list[Metric]:
    """The metrics of a student of numbers that were measured."""
    rows = []
    for label, value, mean in (
        ("RMSE to the ensemble", student.rmse_to_ensemble, "root mean squared"),
        ("MAE to the ensemble", student.mae_to_ensemble, "mean absolute"),
    ):
        if value is not None:
            note = f"{mean} distance of the student's answers from the ensemble's, in the unit"
            rows.append(Metric(label, f"{value:.4g}", note))
    if student.r2_to_ensemble is not None:
        note = "of the student to the ensemble, on the test samples; 1 where both say the same"
        rows.append(Metric("R² to the ensemble", decimals(student.r2_to_ensemble), note))
    return [*rows, *_to_95(student, "R²")]


def _to_95(student: StudentScore, score: str) -> list[Metric]:
    """When the student was first scored at 95 % of its final score; none where that is unknown."""
    if student.questions_to_95 is None:
        return []
    after = "" if student.seconds_to_95 is None else f", {duration(student.seconds_to_95)}"
    note = f"until the student was first scored at 95 % of its final {score}"
    return [Metric("To 95 %", f"{count(student.questions_to_95)} samples{after}", note)]


def _stability(window: str, mean: float | None, variance: float | None, note: str) -> list[Metric]:
    if mean is None or variance is None:
        return []
    spread = f"population variance, squared points; σ = {_POINTS * math.sqrt(variance):.2f} points"
    return [
        Metric(f"μ, {window}", percent(mean), f"mean accuracy {note}"),
        Metric(f"σ², {window}", f"{_POINTS**2 * variance:.2f}", spread),
    ]


def _known(recall: Mapping[str, float | None] | None) -> dict[str, float]:
    return {name: share for name, share in (recall or {}).items() if share is not None}
