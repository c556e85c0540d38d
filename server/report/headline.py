"""The headline figures of the page: scores, questions, traffic, privacy."""

from collections.abc import Sequence
from dataclasses import dataclass

from fedkd.server.report.formatting import count, decimals, percent, significant, size
from fedkd.server.report.main_scores import MainScore, main_score
from fedkd.server.report.output_format import number_text, recorded_numbers
from fedkd.server.report.records.result_schema import Result, TeacherRecord
from fedkd.server.report.run_progress import RunProgress


@dataclass(frozen=True)
class HeadlineFigure:
    """One headline figure."""

    label: str
    value: str
    note: str


def class_headline(result: Result, detailed: bool) -> list[HeadlineFigure]:
    """Accuracies; where ``detailed`` also what skewed classes cannot embellish."""
    student, ensemble = result.student, result.ensemble
    agreement = student.agreement
    note = "" if agreement is None else f"; agrees with the ensemble on {percent(agreement)}"
    is_policy = student.mean_return is not None
    figures = main_headline(
        result, "Student's accuracy" if is_policy else "Student", f"after the last step{note}"
    )
    if is_policy:
        taught = significant(ensemble.mean_return)
        figures.insert(
            0,
            HeadlineFigure(
                "Student's mean return",
                significant(student.mean_return),
                f"of an episode; the ensemble's {taught}",
            ),
        )
    beside = (
        ("Balanced accuracy", student.balanced_accuracy, ensemble.balanced_accuracy, percent),
        ("AUROC", student.auroc, ensemble.auroc, decimals),
        ("Calibration error (ECE)", student.ece, ensemble.ece, percent),
    )
    figures += [
        HeadlineFigure(label, text(own), f"the ensemble's {text(taught)}")
        for label, own, taught, text in beside
        if detailed and own is not None
    ]
    return figures


def number_headline(result: Result, detailed: bool) -> list[HeadlineFigure]:
    """R^2 to truth and to the ensemble; of a single number also its errors in the unit."""
    del detailed
    student, ensemble = result.student, result.ensemble
    figures = main_headline(
        result, "Student, R²", "after the last step; 1 at the best, 0 for the mean"
    )
    number = recorded_numbers(result.task)[0]
    unit = f" in {number.unit}" if number.unit else ""
    for label, own, taught in (
        ("RMSE", student.rmse, ensemble.rmse),
        ("MAE", student.mae, ensemble.mae),
    ):
        if own is not None:
            value, other = (number_text(number, each, unit=False) for each in (own, taught))
            figures.append(HeadlineFigure(f"{label}{unit}", value, f"the ensemble's {other}"))
    if student.r2_to_ensemble is not None:
        note = "of the student's answers to the ensemble's, on test data"
        figures.append(HeadlineFigure("R² to the ensemble", decimals(student.r2_to_ensemble), note))
    return figures


def held_back_headline(result: Result) -> list[HeadlineFigure]:
    """Agreement with the fused answers of held-back samples, where nothing else is known."""
    score, close = main_score(result.task), result.student.held_back
    if close is None or score.of(result.student) is not None:
        return []
    label, value = "Student as the ensemble", percent(close.agreement)
    if close.r2 is not None:
        label, value = "Student, R² to the ensemble", decimals(close.r2)
    elif close.relation_correlation is not None:
        label, value = "Student's relations as the mean", decimals(close.relation_correlation)
    note = (
        f"on {count(close.count)} held-back samples that it never learned from; no test data is "
        "at hand, so its true score is not known"
    )
    return [HeadlineFigure(label, value, note)]


def running_headline(result: Result, progress: RunProgress) -> list[HeadlineFigure]:
    """Score and questions so far of a run that goes on, and privacy."""
    score = main_score(result.task)
    own = score.of(result.student)
    figures = held_back_headline(result)
    if own is not None:
        figures = [HeadlineFigure(f"Student's {score.name}", score.text(own), "so far")]
    return [
        *figures,
        HeadlineFigure(
            "Questions per teacher", count(progress.asked), f"samples of {count(progress.budget)}"
        ),
        _privacy_figure(result.teachers),
    ]


def cost_figures(result: Result) -> list[HeadlineFigure]:
    """Questions, traffic and privacy."""
    teachers = result.teachers
    asked = max((teacher.samples_asked for teacher in teachers), default=0)
    pulled = max((teacher.samples_pulled_back for teacher in teachers), default=0)
    saved = result.questions_saved or 0
    sent = sum(teacher.bytes_sent for teacher in teachers) / max(1, len(teachers))
    received = sum(teacher.bytes_received for teacher in teachers) / max(1, len(teachers))
    return [
        HeadlineFigure(
            "Questions per teacher",
            count(asked),
            (f"samples asked; {count(pulled)} pulled back" if pulled else "samples; no gradients")
            + (f"; stopped early, {count(saved)} saved" if saved else ""),
        ),
        HeadlineFigure(
            "Traffic per teacher",
            size(sent + received),
            f"{size(sent)} sent to it, {size(received)} received",
        ),
        _privacy_figure(teachers),
    ]


def main_headline(result: Result, label: str, note: str) -> list[HeadlineFigure]:
    """The main score of student, ensemble and best teacher."""
    score = main_score(result.task)
    best = _best(result.teachers, score)
    return [
        HeadlineFigure(label, score.text(score.of(result.student)), note),
        HeadlineFigure(
            "Ensemble",
            score.text(score.of(result.ensemble)),
            f"the teachers' fused answer{_prior(result.ensemble.prior)}",
        ),
        HeadlineFigure(
            "Best single teacher",
            score.text(score.of(best) if best else None),
            best.name if best else f"no institution released its {score.name}",
        ),
    ]


def _prior(shares: tuple[float, ...] | None) -> str:
    """Which class prior the fused answer has, where it is not the trained one."""
    if shares is None:
        return ""
    return ", all classes equally likely" if len(set(shares)) == 1 else ", class shares as set"


def _best(teachers: Sequence[TeacherRecord], score: MainScore) -> TeacherRecord | None:
    known = [(value, teacher) for teacher in teachers if (value := score.of(teacher)) is not None]
    return max(known, key=lambda pair: pair[0])[1] if known else None


def _privacy_figure(teachers: Sequence[TeacherRecord]) -> HeadlineFigure:
    guaranteed = [teacher.epsilon for teacher in teachers if teacher.epsilon is not None]
    if not guaranteed:
        return HeadlineFigure("Privacy", "none guaranteed", "by any institution")
    largest = f"{max(guaranteed):.3g}"
    if len(guaranteed) == len(teachers):
        return HeadlineFigure(
            "Privacy", f"ε ≤ {largest}", "the largest of all teachers' guarantees"
        )
    return HeadlineFigure(
        "Privacy",
        f"{len(guaranteed)} of {len(teachers)} guarantee",
        f"ε ≤ {largest} at these; the others guarantee nothing",
    )
