"""Terminal output of a run: progress bars while it runs, a table of results at its end."""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from fedkd.experiment import Experiment
from fedkd.loop import Progress as RunProgress
from fedkd.process.plural import counted
from fedkd.server.report.formatting import decimals, significant
from fedkd.server.report.main_scores import MAIN_SCORES, main_score, teacher_score
from fedkd.server.report.output_format import number_text, recorded_numbers

console = Console()


class ProgressBars:
    """Progress bars: institutions that are ready, samples asked, the student's steps.

    Args:
        progress: of rich.
        experiment: resolved.
        ready: what the first bar counts: trained teachers, or connected institutions.
        count: total of the first bar; None for as many as the experiment simulates.
    """

    def __init__(
        self, progress: Progress, experiment: Experiment, ready: str, count: int | None
    ) -> None:
        self._progress = progress
        self._count = len(experiment.institutions.taking_part) if count is None else count
        self._scored = False
        self._readying = progress.add_task(ready, total=self._count)
        self._asking = progress.add_task(
            "questions", total=experiment.questions.budget, start=False
        )
        self._student = progress.add_task("student", total=experiment.student.steps, start=False)

    def ready(self, count: int) -> None:
        """Set the first bar."""
        self._progress.update(self._readying, completed=count)

    def __call__(self, event: RunProgress) -> None:
        """Update the bars; see `fedkd.loop.Watch`."""
        facts = event.facts
        match event.kind:
            case "asked":
                # Those who answer have a teacher; Flower's simulation reports it no earlier.
                self.ready(self._count)
                self._progress.start_task(self._asking)
                self._progress.update(self._asking, completed=float(str(facts["asked"])))
            case "trained":
                self._progress.start_task(self._student)
                self._progress.update(self._student, completed=float(str(facts["step"])))
            case "scored":
                self._progress.update(self._student, description=f"student {_scored(facts)}")
                self._scored = True
            case "held_back" if not self._scored:
                close = held_back_score(facts)
                self._progress.update(self._student, description=f"student {close}")
            case "lost" | "banned" | "excluded":
                self._progress.console.print(
                    f"{event.kind} {facts['name']}: {facts['reason']}", markup=False
                )
            case "joined" | "returned":
                self._progress.console.print(f"{event.kind} {facts['name']}", markup=False)


def _scored(facts: Mapping[str, object]) -> str:
    """The main score of an event, short."""
    for score in MAIN_SCORES.values():
        if isinstance(value := facts.get(score.field), float):
            return f"{value:.1%}" if score.is_share else f"{score.name} {score.text(value)}"
    return ""


@contextmanager
def progress_bars(
    experiment: Experiment, ready: str = "teachers", count: int | None = None
) -> Iterator[ProgressBars]:
    """Progress bars of one run; they stay on the screen when it is over."""
    columns = (
        TextColumn("{task.description:<14}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, console=console) as progress:
        yield ProgressBars(progress, experiment, ready, count)


def print_resumed(times: int, questions: int, warning: str) -> None:
    """Print where a run is resumed."""
    before = counted(questions, "batch of samples was", "batches of samples were")
    console.print(f"resumed ({times}); {before} answered before")
    if warning:
        print(f"fedkd: {warning}", file=sys.stderr)


def print_result(result: dict[str, Any], path: str) -> None:
    """Print the figures of a finished run."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column()
    table.add_column(overflow="fold")
    student, ensemble = result["student"], result["ensemble"]
    if isinstance(student, dict) and isinstance(ensemble, dict):
        table.add_row("student (last)", score_line(result, student))
        if estimator := result.get("estimator"):
            kind = estimator["kind"].replace("_", " ")
            table.add_row(f"{kind} on the bank", score_line(result, estimator))
            table.add_row(f"{kind}, files", ", ".join(_parity_of_files(estimator)))
        table.add_row("teachers' ensemble", score_line(result, ensemble))
        if held_back := student.get("held_back"):
            line = held_back_line(held_back, result.get("task", _CLASSES))
            table.add_row("student, held-back samples", line)
        if recall := _recall_of_unique_classes(result):
            table.add_row("recall of a class that one knows", recall)
    teachers = result["teachers"]
    if isinstance(teachers, list):
        table.add_row("teachers", _main_scores(result, teachers))
        most = max(t["samples_asked"] for t in teachers)
        saved = result.get("questions_saved")
        early = f", stopped early: {counted(saved, 'sample')} saved" if saved else ""
        table.add_row("asked of each", counted(most, "sample") + early)
    table.add_row("seconds", f"{result['seconds']}")
    console.print(table)
    for warning in result.get("warnings", ()):
        console.print(f"warning: {warning}", soft_wrap=True, markup=False, highlight=False)
    # A path that is folded or cut off is of no use.
    console.print(f"report: {path}", soft_wrap=True, markup=False, highlight=False)


def score_line(result: Mapping[str, Any], scores: Mapping[str, Any]) -> str:
    """The scores of student or ensemble in one line, the main one first.

    Of numbers with their unit; of classes of a table also what skewed classes cannot embellish.
    """
    # Imports matplotlib, for which no start of a program waits.
    from fedkd.server.report.page_kinds import domain_page

    task = result.get("task", _CLASSES)
    detailed = domain_page(result.get("domain", {"kind": "images"})).detailed
    parts = _PARTS[task["kind"]](task, scores, detailed)
    return ", ".join([_main_scores(result, [scores]), *parts])


def held_back_score(scores: Mapping[str, Any]) -> str:
    """How near the student is to the fused answers on samples that it never learned, short."""
    if (relations := scores.get("relation_correlation")) is not None:
        return f"≈ relations {decimals(relations)}"
    r2, close = scores.get("r2"), scores.get("agreement")
    return f"≈ {_percent(close)}" if r2 is None else f"≈ R² {decimals(r2)}"


def held_back_line(scores: Mapping[str, Any], task: Mapping[str, Any]) -> str:
    """Scores on samples that the student never learned, against their fused answers."""
    if task["kind"] == "embedding":
        parts = [
            f"relations correlate {decimals(scores['relation_correlation'])}",
            f"differ by {decimals(scores['relation_error'])}",
        ]
    elif task["kind"] != "numbers":
        parts = [
            f"as the fused answer: {_percent(scores['agreement'])}",
            f"KL {significant(scores['kl'])} nats",
            f"calibration error {_percent(scores['ece'])}",
        ]
    else:
        parts = [
            f"R² to the fused answer {decimals(scores['r2'])}",
            f"RMSE {_percent(scores['rmse_of_range'])} of the range",
        ]
    return f"{', '.join(parts)} ({counted(scores['count'], 'sample')})"


def _main_scores(result: Mapping[str, Any], scored: Sequence[Mapping[str, Any]]) -> str:
    """The main score of some, by name if that is not the accuracy."""
    task = result.get("task", _CLASSES)
    score = main_score(task)
    if all(scores.get(score.field) is None for scores in scored):
        score = teacher_score(task)
    text = _percent if score.is_share else score.text
    each = ", ".join(text(scores.get(score.field)) for scores in scored[:10])
    known = any(scores.get(score.field) is not None for scores in scored)
    return (
        ("" if score.is_share or not known else f"{score.name} ")
        + each
        + (" ..." if len(scored) > 10 else "")
    )


def _class_parts(task: Mapping[str, Any], scores: Mapping[str, Any], detailed: bool) -> list[str]:
    del task
    named = (
        ("balanced accuracy", scores.get("balanced_accuracy") if detailed else None, _percent),
        ("AUROC", scores.get("auroc") if detailed else None, decimals),
        ("mean return", scores.get("mean_return"), significant),
    )
    return [f"{name} {text(value)}" for name, value, text in named if value is not None]


def _number_parts(task: Mapping[str, Any], scores: Mapping[str, Any], detailed: bool) -> list[str]:
    del detailed
    number = recorded_numbers(task)[0]
    named = (("RMSE", scores.get("rmse")), ("MAE", scores.get("mae")))
    parts = [f"{name} {number_text(number, value)}" for name, value in named if value is not None]
    if (close := scores.get("r2_to_ensemble")) is not None:
        parts.append(f"R² to the ensemble {decimals(close)}")
    return parts


def _task_parts(task: Mapping[str, Any], scores: Mapping[str, Any], detailed: bool) -> list[str]:
    del task, detailed
    each = (scores.get("task_accuracy") or {}).items()
    return [f"{name} {_percent(share)}" for name, share in list(each)[:8] if share is not None]


def _parity_of_files(estimator: Mapping[str, Any]) -> list[str]:
    """Of each format, how far its file is from the estimator, or why there is none."""

    def text(of: Mapping[str, Any]) -> str:
        return str(of.get("skipped") or f"differs by {of['max_difference']:.1g} at most")

    return [f"{name} {text(estimator[name])}" for name in ("skops", "onnx")]


_CLASSES = {"kind": "classes"}


def _embedding_parts(
    task: Mapping[str, Any], scores: Mapping[str, Any], detailed: bool
) -> list[str]:
    del task, detailed
    named = (
        ("recall@5", scores.get("recall_at_5"), _percent),
        ("relations as the mean", scores.get("relation_correlation"), decimals),
    )
    return [f"{name} {text(value)}" for name, value, text in named if value is not None]


_PARTS = {
    "classes": _class_parts,
    "numbers": _number_parts,
    "tasks": _task_parts,
    "embedding": _embedding_parts,
}
"""What follows the main score, by kind of task."""


def _recall_of_unique_classes(result: dict[str, Any]) -> str:
    """The student's recall of every class that only one institution knows."""
    known = Counter(name for teacher in result["teachers"] for name in teacher["classes"])
    recall = result["student"]["recall"] or {}
    return ", ".join(f"{n}: {_percent(r)}" for n, r in recall.items() if known[n] == 1)


def _percent(value: float | None) -> str:
    return "not known" if value is None else f"{value:.2%}"
