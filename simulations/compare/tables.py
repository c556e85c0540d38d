"""Tables of a comparison: means and their spread over seeds or draws, as Markdown or CSV."""

import csv
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from fedkd.errors import SettingsError
from fedkd.experiment import did_you_mean
from fedkd.server.report.page_kinds import domain_page

Figures = Mapping[str, Any]
"""The content of a run's ``result.json``."""


@dataclass(frozen=True)
class Column:
    """One figure of a run, and the format of its mean."""

    heading: str
    value_of: Callable[[Figures], float | None]
    kind: str = "percent"
    """Format: percent, number (three digits), points2 (squared percent), count, epsilon or unit
    (four digits of a number of any size)."""


@dataclass(frozen=True)
class ComparisonRow:
    """One experiment over its seeds."""

    label: str
    family: str
    """Shared by rows that differ only in epsilon."""
    results: tuple[Figures, ...]
    """Result of each seed, from 0."""
    folders: tuple[Path, ...]
    drawn: bool = False
    """Whether partition and teachers differ too, so that runs are draws of the whole experiment."""

    def values(self, column: str) -> list[float]:
        """Values of all seeds that have one."""
        found = [COLUMNS[column].value_of(result) for result in self.results]
        return [value for value in found if value is not None]

    def mean(self, column: str) -> float | None:
        """Mean over seeds; None where no run has the figure."""
        values = self.values(column)
        return statistics.fmean(values) if values else None

    def deviation(self, column: str) -> float:
        """Sample standard deviation over seeds; 0 for fewer than two."""
        values = self.values(column)
        return statistics.stdev(values) if len(values) > 1 else 0.0

    def spread(self, column: str) -> float:
        """What stands behind the mean: of draws its standard error, else `deviation`."""
        values = self.values(column)
        return self.deviation(column) / math.sqrt(max(1, len(values)) if self.drawn else 1)

    @property
    def task(self) -> str:
        """Kind of its task, as `fedkd.server.report.page_kinds.TASKS` has it."""
        return str(self.results[0].get("task", {"kind": "classes"})["kind"])

    @property
    def detailed(self) -> bool:
        """Whether scores beside the accuracy are shown unasked, as on the page of a run."""
        return domain_page(self.results[0].get("domain", {"kind": "images"})).detailed


def _student(key: str) -> Callable[[Figures], float | None]:
    return lambda result: result["student"].get(key)


def _largest(key: str) -> Callable[[Figures], float | None]:
    return lambda result: max(teacher[key] for teacher in result["teachers"])


def _epsilon(result: Figures) -> float | None:
    """The largest epsilon; None where a teacher has no guarantee."""
    epsilons = [teacher["epsilon"] for teacher in result["teachers"]]
    return None if None in epsilons else max(epsilons)


def _ensemble(key: str) -> Callable[[Figures], float | None]:
    return lambda result: result["ensemble"].get(key)


def _teachers(key: str) -> Callable[[Figures], float | None]:
    def mean(result: Figures) -> float | None:
        known = [value for t in result["teachers"] if (value := t.get(key)) is not None]
        return statistics.fmean(known) if known else None

    return mean


COLUMNS = {
    "student": Column("student, last", _student("accuracy")),
    "best": Column("best on the way", _student("best_test_accuracy")),
    "mean": Column("μ", _student("mean_accuracy")),
    "variance": Column("σ² (points²)", _student("variance_of_accuracy"), "points2"),
    "mean_half": Column("μ, last half", _student("mean_accuracy_last_half")),
    "variance_half": Column(
        "σ², last half (points²)", _student("variance_of_accuracy_last_half"), "points2"
    ),
    "agreement": Column("agreement", _student("agreement")),
    "fidelity": Column("fidelity", _student("fidelity"), "number"),
    "fidelity_double_root": Column(
        "fidelity, double root", _student("fidelity_double_root"), "number"
    ),
    "recall_at_1": Column("recall@1", _student("recall_at_1")),
    "recall_at_5": Column("recall@5", _student("recall_at_5")),
    "relation_correlation": Column(
        "correlation of cosines", _student("relation_correlation"), "number"
    ),
    "ensemble_recall_at_1": Column("ensemble recall@1", _ensemble("recall_at_1")),
    "ensemble": Column("ensemble", _ensemble("accuracy")),
    "teachers": Column("mean teacher", _teachers("accuracy")),
    "all_tasks": Column("all tasks right, last", _student("all_tasks_accuracy")),
    "ensemble_all_tasks": Column("all tasks right, ensemble", _ensemble("all_tasks_accuracy")),
    "balanced_accuracy": Column("balanced accuracy", _student("balanced_accuracy")),
    "auroc": Column("AUROC", _student("auroc"), "number"),
    "ece": Column("ECE", _student("ece")),
    "mean_return": Column("mean return", _student("mean_return"), "unit"),
    "r2": Column("R², last", _student("r2"), "number"),
    "rmse": Column("RMSE", _student("rmse"), "unit"),
    "mae": Column("MAE", _student("mae"), "unit"),
    "r2_to_ensemble": Column("R² to the ensemble", _student("r2_to_ensemble"), "number"),
    "ensemble_r2": Column("R², ensemble", _ensemble("r2"), "number"),
    "teachers_r2": Column("R², mean teacher", _teachers("r2"), "number"),
    "epsilon": Column("ε", _epsilon, "epsilon"),
    "asked": Column("asked of each", _largest("samples_asked"), "count"),
    "saved": Column("saved", lambda result: result.get("questions_saved"), "count"),
    "pulled_back": Column("pulled back", _largest("samples_pulled_back"), "count"),
    "questions_to_95": Column("asked to 95 %", _student("questions_to_95"), "count"),
    "seconds_to_95": Column("seconds to 95 %", _student("seconds_to_95"), "count"),
    "seconds": Column("seconds", lambda result: result["seconds"], "count"),
}
"""All columns, by the name that ``--columns`` takes."""
_LAST = ("questions_to_95", "seconds_to_95", "asked", "seconds")
DEFAULT_COLUMNS = (
    "student",
    "best",
    "mean",
    "variance",
    "agreement",
    "fidelity",
    "ensemble",
    *_LAST,
)
NUMBER_COLUMNS = ("r2", "rmse", "mae", "r2_to_ensemble", "ensemble_r2", *_LAST)
MAIN_COLUMNS = {
    "classes": ("student", "ensemble"),
    "numbers": ("r2", "ensemble_r2"),
    "tasks": ("all_tasks", "ensemble_all_tasks"),
    "embedding": ("recall_at_1", "ensemble_recall_at_1"),
}
"""The columns of the main score of student and ensemble, by kind of task."""
TASK_COLUMNS = ("all_tasks", "student", "agreement", "ensemble_all_tasks", *_LAST)
EMBEDDING_COLUMNS = (
    *("recall_at_1", "recall_at_5", "relation_correlation", "ensemble_recall_at_1"),
    *_LAST,
)
_DEFAULTS = {
    "classes": DEFAULT_COLUMNS,
    "numbers": NUMBER_COLUMNS,
    "tasks": TASK_COLUMNS,
    "embedding": EMBEDDING_COLUMNS,
}
_DETAILS = ("balanced_accuracy", "auroc")
_SHARED = (
    *("ensemble", "teachers", "ensemble_r2", "teachers_r2", "ensemble_all_tasks"),
    "ensemble_recall_at_1",
    *("epsilon", "asked", "pulled_back"),
)
"""Mostly equal for all seeds; a deviation is shown only where they differ."""


def default_columns(rows: Sequence[ComparisonRow]) -> tuple[str, ...]:
    """What is shown of these rows: the columns of their tasks, and epsilon where it is known."""
    found: dict[str, None] = {}
    for row in rows:
        first, *others = _DEFAULTS[row.task]
        details = [name for name in _DETAILS if row.detailed and row.values(name)]
        found.update(dict.fromkeys([first, *details, *others]))
    epsilon = ("epsilon",) if any(row.values("epsilon") for row in rows) else ()
    return (*(name for name in found if name not in _LAST), *epsilon, *_LAST)


def select_columns(columns: str) -> tuple[str, ...]:
    """Columns by name, separated by commas.

    Raises:
        SettingsError: there is no column of that name.
    """
    names = tuple(name.strip() for name in columns.split(","))
    for name in names:
        if name not in COLUMNS:
            raise SettingsError(
                f"--columns: no {name!r}{did_you_mean(name, list(COLUMNS))}; choose among "
                f"{', '.join(COLUMNS)}"
            )
    return names


def markdown(rows: Sequence[ComparisonRow], columns: Sequence[str]) -> str:
    """The table in Markdown."""
    head = ["experiment", *(COLUMNS[column].heading for column in columns)]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * len(columns)]
    for row in rows:
        cells = [row.label, *(cell(row, column) for column in columns)]
        lines.append("| " + " | ".join(text.replace("|", "\\|") for text in cells) + " |")
    return "\n".join(lines) + "\n"


def table(rows: Sequence[ComparisonRow], columns: Sequence[str], seeds: int) -> Table:
    """The table for a terminal."""
    what, runs = ("standard error", "draw") if rows[0].drawn else ("sd", "seed")
    title = f"mean ± {what} over {seeds} {runs}s" if seeds > 1 else f"of 1 {runs}"
    terminal_table = Table(title=title, box=None)
    terminal_table.add_column("experiment", no_wrap=True)
    for column in columns:
        terminal_table.add_column(COLUMNS[column].heading, justify="right", no_wrap=True)
    for row in rows:
        terminal_table.add_row(row.label, *(cell(row, column) for column in columns))
    return terminal_table


def write_csv(rows: Sequence[ComparisonRow], path: Path) -> None:
    """Write all figures of each run as a CSV line, as in ``result.json``; empty where not known."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("experiment", "seed", "method", "folder", *COLUMNS))
        for row in rows:
            for seed, (result, folder) in enumerate(zip(row.results, row.folders, strict=True)):
                figures = [column.value_of(result) for column in COLUMNS.values()]
                writer.writerow((row.label, seed, result["method"], folder.name, *figures))


def cell(row: ComparisonRow, column: str) -> str:
    """``97.59% ± 0.16``; no deviation for a single seed, or where all seeds are equal."""
    mean, deviation = row.mean(column), row.spread(column)
    if mean is None:
        return "none" if column == "epsilon" else "not known"
    kind = COLUMNS[column].kind
    single = len(row.values(column)) < 2 or (column in _SHARED and deviation == 0)
    factor = {"percent": 100.0, "points2": 1e4}.get(kind, 1.0)
    digits = {"percent": 2, "points2": 1, "number": 3, "count": 0, "epsilon": 2, "unit": 0}[kind]
    unit = "%" if kind == "percent" else ""
    if kind == "unit":
        return f"{mean:.4g}" if single else f"{mean:.4g} ± {deviation:.2g}"
    value = f"{factor * mean:,.{digits}f}{unit}"
    return value if single else f"{value} ± {factor * deviation:,.{digits}f}"
