"""Terminal output of a run: progress bars while it runs, a table of results at its end."""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from fedkd.core.plural import counted
from fedkd.experiment import Experiment
from fedkd.loop import Progress as RunProgress

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
        self._count = experiment.institutions.count if count is None else count
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
                r2, accuracy = facts.get("r2"), facts.get("accuracy")
                shown = f"{float(str(accuracy)):.1%}" if r2 is None else f"R² {float(str(r2)):.3f}"
                self._progress.update(self._student, description=f"student {shown}")
            case "lost" | "banned" | "excluded":
                self._progress.console.print(
                    f"{event.kind} {facts['name']}: {facts['reason']}", markup=False
                )
            case "joined" | "returned":
                self._progress.console.print(f"{event.kind} {facts['name']}", markup=False)


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
    )
    with Progress(*columns, console=console) as progress:
        yield ProgressBars(progress, experiment, ready, count)


def print_resumed(times: int, questions: int, warning: str) -> None:
    """Print where a run is resumed."""
    before = counted(questions, "question was", "questions were")
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
        table.add_row("student (last)", _percent(student["accuracy"]))
        table.add_row("teachers' ensemble", _percent(ensemble["accuracy"]))
        if recall := _recall_of_unique_classes(result):
            table.add_row("recall of a class that one knows", recall)
    teachers = result["teachers"]
    if isinstance(teachers, list):
        each = ", ".join(_percent(t["accuracy"]) for t in teachers[:10])
        table.add_row("teachers", each + (" ..." if len(teachers) > 10 else ""))
        most = max(t["samples_asked"] for t in teachers)
        table.add_row("asked of each", counted(most, "sample"))
    table.add_row("seconds", f"{result['seconds']}")
    console.print(table)
    # A path that is folded or cut off is of no use.
    console.print(f"report: {path}", soft_wrap=True, markup=False, highlight=False)


def _recall_of_unique_classes(result: dict[str, Any]) -> str:
    """The student's recall of every class that only one institution knows."""
    known = Counter(name for teacher in result["teachers"] for name in teacher["classes"])
    recall = result["student"]["recall"] or {}
    return ", ".join(f"{n}: {_percent(r)}" for n, r in recall.items() if known[n] == 1)


def _percent(value: float | None) -> str:
    return "not known" if value is None else f"{value:.2%}"
