"""What a terminal shows while a run goes on. Knows progress, and nothing that makes it."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from fedkd.experiment import Experiment
from fedkd.loop import Progress as Happening

console = Console()


class Bars:
    """Progress bars: teachers being taught, questions asked, the student's steps."""

    def __init__(self, progress: Progress, experiment: Experiment) -> None:
        self._progress, self._experiment = progress, experiment
        self._teaching = progress.add_task("teachers", total=experiment.institutions.count)
        self._asking = progress.add_task(
            "questions", total=experiment.questions.budget, start=False
        )
        self._student = progress.add_task("student", total=experiment.student.steps, start=False)

    def taught(self, count: int) -> None:
        """So many institutions have their teacher."""
        self._progress.update(self._teaching, completed=count)

    def __call__(self, happening: Happening) -> None:
        """A `fedkd.loop.Watch`."""
        facts = happening.facts
        match happening.kind:
            case "asked":
                # Whoever answers has a teacher; in Flower's simulation nothing says so earlier.
                self.taught(self._experiment.institutions.count)
                self._progress.start_task(self._asking)
                self._progress.update(self._asking, completed=float(str(facts["asked"])))
            case "trained":
                self._progress.start_task(self._student)
                self._progress.update(self._student, completed=float(str(facts["step"])))
            case "scored":
                accuracy = float(str(facts["accuracy"]))
                self._progress.update(self._student, description=f"student {accuracy:.1%}")
            case "lost":
                self._progress.console.print(f"lost {facts['name']}: {facts['reason']}")


@contextmanager
def bars(experiment: Experiment) -> Iterator[Bars]:
    """Bars for one run; they stay on the screen when it is over."""
    columns = (
        TextColumn("{task.description:<14}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        yield Bars(progress, experiment)


def resolved(experiment: Experiment, engine: str) -> None:
    """Print what the run will do."""
    i, q = experiment.institutions, experiment.questions
    split = f"Dirichlet {i.alpha}" if i.partition == "dirichlet" else i.partition
    arguments = ", ".join(f"{k}={v}" for k, v in experiment.method.arguments.items())
    console.print(
        f"[bold]{experiment.name}[/bold] · {engine} · seed {experiment.seed} · "
        f"{i.count} institutions on {i.data} ({split}) · "
        f"{experiment.method.name}({arguments}) · "
        f"{q.budget:,} samples asked of each · {experiment.student.steps:,} student steps"
    )


def outcome(result: dict[str, Any], path: str) -> None:
    """Print the figures of a finished run."""
    table = Table(show_header=False, box=None, pad_edge=False)
    student, ensemble = result["student"], result["ensemble"]
    if isinstance(student, dict) and isinstance(ensemble, dict):
        table.add_row("student (last)", _percent(student["accuracy"]))
        table.add_row("teachers' ensemble", _percent(ensemble["accuracy"]))
        if alone := _alone(result):
            table.add_row("recall of a class that one knows", alone)
    teachers = result["teachers"]
    if isinstance(teachers, list):
        each = ", ".join(_percent(t["accuracy"]) for t in teachers[:10])
        table.add_row("teachers", each + (" ..." if len(teachers) > 10 else ""))
        table.add_row("asked of each", f"{max(t['samples_asked'] for t in teachers):,} samples")
    table.add_row("seconds", f"{result['seconds']}")
    table.add_row("report", path)
    console.print(table)


def _alone(result: dict[str, Any]) -> str:
    """The student's recall of every class that one institution alone knows."""
    known = Counter(name for teacher in result["teachers"] for name in teacher["classes"])
    recall = result["student"]["recall"] or {}
    return ", ".join(f"{n}: {_percent(r)}" for n, r in recall.items() if known[n] == 1)


def _percent(value: float | None) -> str:
    return "not known" if value is None else f"{value:.2%}"
