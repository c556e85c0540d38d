"""The page's table of scores: student, ensemble and each teacher, beside one another."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fedkd.server.report.formatting import decimals, percent, significant
from fedkd.server.report.institutions.many_institutions import MAX_SHOWN
from fedkd.server.report.output_format import number_text, recorded_numbers
from fedkd.server.report.records.result_parts import TaskScores
from fedkd.server.report.records.result_schema import Result

Format = Callable[[float | None], str]
Columns = Sequence[tuple[str, str, Format]]
"""(field, heading, format)."""


@dataclass(frozen=True)
class ScoreTable:
    """Headings, and rows of a name and as many values."""

    headings: Sequence[str]
    rows: Sequence[tuple[str, Sequence[str]]]


def class_scores(result: Result) -> ScoreTable | None:
    """Accuracy, balanced accuracy, AUROC and calibration error; None if only accuracy is known.

    Of policies, whose classes are actions, also the mean return.
    """
    columns = (
        ("mean_return", "Mean return", significant),
        ("accuracy", "Accuracy", percent),
        ("balanced_accuracy", "Balanced accuracy", percent),
        ("auroc", "AUROC", decimals),
        ("ece", "Calibration error (ECE)", percent),
    )
    return score_table(result, columns, beside="balanced_accuracy")


def number_scores(result: Result) -> ScoreTable | None:
    """R^2, and RMSE and MAE in the unit; None if only R^2 is known."""
    number = recorded_numbers(result.task)[0]
    unit = f", {number.unit}" if number.unit else ""

    def text(value: float | None) -> str:
        return number_text(number, value, unit=False)

    columns = (("r2", "R²", decimals), ("rmse", f"RMSE{unit}", text), ("mae", f"MAE{unit}", text))
    return score_table(result, columns, beside="rmse")


def score_table(result: Result, columns: Columns, beside: str) -> ScoreTable | None:
    """Columns are (field, heading, format); no table where nobody's ``beside`` is known."""
    scored: list[tuple[str, TaskScores]] = [
        ("student", result.student),
        *((each.kind.replace("_", " "), each) for each in [result.estimator] if each),
        ("ensemble", result.ensemble),
        *((teacher.name, teacher) for teacher in result.teachers[:MAX_SHOWN]),
    ]
    if all(getattr(scores, beside) is None for _, scores in scored):
        return None
    shown = [each for each in columns if any(getattr(of, each[0]) is not None for _, of in scored)]
    known = [each for each in scored if any(getattr(each[1], f) is not None for f, _, _ in shown)]
    return ScoreTable(
        [heading for _, heading, _ in shown],
        [(who, [text(getattr(of, field)) for field, _, text in shown]) for who, of in known],
    )
