"""Experiments side by side over several seeds: one table, one picture. Knows no loop."""

import csv
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import PercentFormatter
from rich.table import Table

from fedkd.errors import SettingsError
from fedkd.experiment import load
from server import show
from server.report.folder import load as load_run
from server.report.record import Scored
from server.report.style import SERIES, figure, style
from simulations.run import run


@dataclass(frozen=True)
class Row:
    """One experiment over its seeds; accuracies in [0, 1]."""

    name: str
    students: tuple[float, ...]
    """Of the last student of each seed."""
    ensemble: float
    """The ceiling: mean over seeds, which share their teachers."""
    teachers: float
    """Mean of the institutions' own."""
    asked: int
    """Samples asked of each institution."""
    pulled_back: int
    seconds: float
    """Mean of a run."""

    @property
    def mean(self) -> float:
        """Of the students."""
        return statistics.fmean(self.students)

    @property
    def deviation(self) -> float:
        """Sample standard deviation; 0 for a single seed."""
        return statistics.stdev(self.students) if len(self.students) > 1 else 0.0


HEAD = (
    "experiment",
    "student",
    "each seed",
    "ensemble",
    "mean teacher",
    "asked of each",
    "pulled back",
    "seconds",
)


def compare(
    names: Sequence[str], seeds: int, engine: str, out: Path | None, overrides: Sequence[str] = ()
) -> list[Row]:
    """Run every experiment with seeds 0 to ``seeds`` - 1 and write the comparison.

    Args:
        names: experiments, by path or name.
        seeds: >= 1.
        engine: as `simulations.run.run` takes it.
        out: folder of the comparison, None for one under ``runs``.
        overrides: of every experiment, ``section.key=value``.

    Raises:
        FedkdError: whatever a run raises.
    """
    if seeds < 1:
        raise SettingsError(f"--seeds {seeds}; expected 1 or more")
    path = out or Path("runs") / f"compare-{time.strftime('%Y%m%d-%H%M%S')}"
    experiments = [[load(n, [*overrides, f"seed={s}"]) for s in range(seeds)] for n in names]
    rows = []
    for of_seed in experiments:
        results = [run(e, engine, path / f"{e.name}-{e.seed}") for e in of_seed]
        rows.append(_row(of_seed[0].name, results))
    (path / "comparison.md").write_text(markdown(rows))
    _write_csv(rows, path / "comparison.csv")
    _draw(rows, seeds, path)
    show.console.print(_table(rows, seeds))
    show.console.print(f"table, values and picture: {path}/comparison.md, .csv, .svg, .png")
    return rows


def markdown(rows: Sequence[Row]) -> str:
    """The table for a document."""
    lines = ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
    lines += ["| " + " | ".join(_cells(row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _row(name: str, results: Sequence[dict[str, Any]]) -> Row:
    teachers = results[0]["teachers"]
    return Row(
        name,
        tuple(r["student"]["accuracy"] for r in results),
        statistics.fmean(r["ensemble"]["accuracy"] for r in results),
        statistics.fmean(t["accuracy"] for t in teachers),
        max(t["samples_asked"] for r in results for t in r["teachers"]),
        max(t["samples_pulled_back"] for r in results for t in r["teachers"]),
        statistics.fmean(r["seconds"] for r in results),
    )


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.name,
        f"{row.mean:.2%} ± {100 * row.deviation:.2f}",
        " ".join(f"{100 * s:.2f}" for s in row.students),
        f"{row.ensemble:.2%}",
        f"{row.teachers:.2%}",
        f"{row.asked:,}",
        f"{row.pulled_back:,}",
        f"{row.seconds:.0f}",
    )


def _table(rows: Sequence[Row], seeds: int) -> Table:
    table = Table(title=f"last student, mean ± sd over {seeds} seeds", box=None)
    shown = [i for i, column in enumerate(HEAD) if column not in ("each seed", "pulled back")]
    for i in shown:
        table.add_column(HEAD[i], justify="left" if i == 0 else "right", no_wrap=True)
    for row in rows:
        cells = _cells(row)
        table.add_row(*(cells[i] for i in shown))
    return table


def _write_csv(rows: Sequence[Row], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("experiment", "seed", "student", "ensemble", "asked", "pulled_back"))
        for row in rows:
            for seed, accuracy in enumerate(row.students):
                facts = (accuracy, row.ensemble, row.asked, row.pulled_back)
                writer.writerow((row.name, seed, *facts))


def _draw(rows: Sequence[Row], seeds: int, path: Path) -> None:
    """Accuracy against the share of the student's steps, a line an experiment, its range shaded."""
    grid = np.linspace(0, 1, 41)
    with style("compare"):
        drawn = figure(height=420)
        axes = drawn.subplots()
        for row, colour in zip(rows, SERIES * (len(rows) // len(SERIES) + 1), strict=False):
            curves = np.stack([_curve(path / f"{row.name}-{s}", grid) for s in range(seeds)])
            label = f"{row.name} ({row.asked:,} asked)"
            axes.plot(grid, curves.mean(0), color=colour, label=label)
            axes.fill_between(grid, curves.min(0), curves.max(0), color=colour, alpha=0.15, lw=0)
        axes.set_xlabel("share of the student's steps")
        axes.set_ylabel("accuracy on test data")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1.0))
        axes.legend(loc="lower right")
        drawn.patch.set_visible(True)
        drawn.savefig(path / "comparison.svg")
        drawn.savefig(path / "comparison.png", dpi=110)


def _curve(run_path: Path, grid: np.ndarray[Any, np.dtype[np.float64]]) -> Any:
    record = load_run(run_path)
    scores = [
        (e.step, e.accuracy)
        for e in record.events
        if isinstance(e, Scored) and e.accuracy is not None
    ]
    steps, accuracies = np.array(scores, dtype=float).T
    return np.interp(grid * record.result.student_steps, steps, accuracies)
