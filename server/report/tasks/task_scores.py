"""Scores of several tasks on the page: headline, table, picture, and answers in words."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from fedkd.errors import DataError
from fedkd.protocol.tasks import NamedTask, task_slices
from fedkd.server.report.formatting import percent
from fedkd.server.report.headline import HeadlineFigure
from fedkd.server.report.institutions.many_institutions import MAX_SHOWN
from fedkd.server.report.plot_style import (
    ACCENT,
    FAINT,
    INK,
    SOFT,
    both_widths,
    by_width,
    figure,
    inline_svg,
    short,
    style,
)
from fedkd.server.report.records.result_parts import TaskScores
from fedkd.server.report.records.result_schema import Result, StudentScore
from fedkd.server.report.records.run_record import RunRecord
from fedkd.server.report.score_table import ScoreTable
from fedkd.server.report.student_metrics import Metric, class_metrics
from fedkd.server.report.tables.prediction_plots import PredictionPicture

MAX_TASKS = 12
"""Limit of tasks in table and picture, and of those that are written of one answer."""


def recorded_tasks(task: Mapping[str, Any]) -> tuple[NamedTask, ...]:
    """The tasks, from the task in a result.

    Raises:
        DataError: they are malformed.
    """
    try:
        return tuple(NamedTask(str(t["name"]), tuple(t["class_names"])) for t in task["tasks"])
    except (KeyError, TypeError) as error:
        raise DataError(f"the result's tasks are malformed: {error!r}") from None


def task_headline(result: Result, detailed: bool) -> list[HeadlineFigure]:
    """Share of all tasks right, of student and ensemble, and the student's least task."""
    del detailed
    student, ensemble = result.student, result.ensemble
    count = len(recorded_tasks(result.task))
    figures = [
        HeadlineFigure(
            f"Student, all {count} tasks right",
            percent(student.all_tasks_accuracy),
            "of the test samples, after the last step",
        ),
        HeadlineFigure(
            f"Ensemble, all {count} tasks right",
            percent(ensemble.all_tasks_accuracy),
            "the teachers' answers, fused within each task",
        ),
    ]
    known = {n: s for n, s in (student.task_accuracy or {}).items() if s is not None}
    if known:
        least = min(known, key=lambda name: known[name])
        figures.append(
            HeadlineFigure("Student's least task", percent(known[least]), f"accuracy of {least}")
        )
    return figures


def task_metrics(student: StudentScore) -> list[Metric]:
    """Agreement with the ensemble in each task, beside what is shown of classes."""
    each = (student.task_agreement or {}).items()
    return [
        *class_metrics(student),
        *(
            Metric(f"Agreement in {name}", percent(share), "student and ensemble name the same")
            for name, share in list(each)[:MAX_TASKS]
            if share is not None
        ),
    ]


def task_scores(result: Result) -> ScoreTable | None:
    """Accuracy of each task, and of all together; None where nobody's is known.

    Who does not label a task has a blank there.
    """
    names = [task.name for task in recorded_tasks(result.task)][:MAX_TASKS]
    rows = [
        (who, ["" if value is None else percent(value) for value in values])
        for who, scores in _scored(result)
        if scores.task_accuracy is not None
        for values in [(scores.all_tasks_accuracy, *(_of(scores, name) for name in names))]
    ]
    return ScoreTable(["All tasks right", *names], rows) if rows else None


def task_picture(record: RunRecord) -> PredictionPicture | None:
    """Accuracy of each task: the teachers that label it, the ensemble, the student."""
    scored = [(who, of) for who, of in _scored(record.result) if of.task_accuracy is not None]
    if not scored:
        return None
    names = [task.name for task in recorded_tasks(record.result.task)][:MAX_TASKS]
    caption = (
        "Each task is labelled by some institutions alone; answers are fused within it. The last "
        "row counts a sample where all tasks are right."
    )
    return PredictionPicture(
        "Accuracy of each task", both_widths(lambda: _dots(scored, names)), caption
    )


def tasks_answer(result: Result, answer: NDArray[Any]) -> str:
    """``odd: even 98%, hole: no hole 87%``, of probabilities (K,)."""
    tasks, parts = recorded_tasks(result.task), []
    for task, at in list(zip(tasks, task_slices(tasks).values(), strict=True))[:MAX_TASKS]:
        own = answer[at]
        index = int(own.argmax())
        parts.append(f"{task.name}: {task.class_names[index]} {own[index]:.0%}")
    return ", ".join(parts)


def _scored(result: Result) -> list[tuple[str, TaskScores]]:
    return [
        ("student", result.student),
        ("ensemble", result.ensemble),
        *((teacher.name, teacher) for teacher in result.teachers[:MAX_SHOWN]),
    ]


def _of(scores: TaskScores, task: str) -> float | None:
    return (scores.task_accuracy or {}).get(task)


def _dots(scored: Sequence[tuple[str, TaskScores]], names: Sequence[str]) -> str:
    """A row for each task and one for all, a dot for each of those who answer it."""
    looks = {"student": (ACCENT, 9, 3), "ensemble": (INK, 6, 2)}
    with style("tasks"):
        drawn = figure(height=96 + 34 * (len(names) + 1))
        axes = drawn.subplots()
        for who, scores in scored:
            values = [*(_of(scores, name) for name in names), scores.all_tasks_accuracy]
            known = [(value, row) for row, value in enumerate(values) if value is not None]
            colour, size, above = looks.get(who, (SOFT, 5, 1))
            if known:
                xs, ys = zip(*known, strict=True)
                label = who if who in looks else None
                axes.plot(
                    xs, ys, "o", ms=size, color=colour, zorder=2 + above, label=label, mec="none"
                )
        axes.plot([], [], "o", ms=5, color=SOFT, mec="none", label="teachers")
        axes.axhline(len(names) - 0.5, color=FAINT, lw=1)
        letters = by_width(28, 12)
        axes.set_yticks(range(len(names) + 1), [*(short(n, letters) for n in names), "all right"])
        axes.set_ylim(len(names) + 0.5, -0.5)
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_xlabel("accuracy on test data")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -by_width(22, 26) / 100), ncols=3)
        return inline_svg(drawn, "tasks", "Accuracy of each task")
