"""The figures of a comparison: mean and deviation over seeds, as tables. Knows no run under way."""

import csv
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from fedkd.errors import SettingsError
from fedkd.experiment import nearest

Figures = Mapping[str, Any]
"""What stands in a run's ``result.json``."""


@dataclass(frozen=True)
class Column:
    """One figure of a run, and how its mean is written."""

    heading: str
    of: Callable[[Figures], float | None]
    shown: str = "percent"
    """percent, number (three digits), points2 (squared percentage points), count or epsilon."""


@dataclass(frozen=True)
class Row:
    """One experiment over its seeds."""

    label: str
    family: str
    """Rows that differ in epsilon alone share it."""
    results: tuple[Figures, ...]
    """Of each seed, from 0."""
    folders: tuple[Path, ...]

    def values(self, column: str) -> list[float]:
        """Of every seed that has one."""
        found = [COLUMNS[column].of(result) for result in self.results]
        return [value for value in found if value is not None]

    def mean(self, column: str) -> float | None:
        """Over seeds; None where no run knows."""
        values = self.values(column)
        return statistics.fmean(values) if values else None

    def deviation(self, column: str) -> float:
        """Sample standard deviation over seeds; 0 for fewer than two."""
        values = self.values(column)
        return statistics.stdev(values) if len(values) > 1 else 0.0


def _student(key: str) -> Callable[[Figures], float | None]:
    return lambda result: result["student"].get(key)


def _largest(key: str) -> Callable[[Figures], float | None]:
    return lambda result: max(teacher[key] for teacher in result["teachers"])


def _epsilon(result: Figures) -> float | None:
    """The largest promise; None where somebody promises nothing."""
    promises = [teacher["epsilon"] for teacher in result["teachers"]]
    return None if None in promises else max(promises)


def _teachers(result: Figures) -> float | None:
    known = [t["accuracy"] for t in result["teachers"] if t["accuracy"] is not None]
    return statistics.fmean(known) if known else None


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
    "ensemble": Column("ensemble", lambda result: result["ensemble"]["accuracy"]),
    "teachers": Column("mean teacher", _teachers),
    "epsilon": Column("ε", _epsilon, "epsilon"),
    "asked": Column("asked of each", _largest("samples_asked"), "count"),
    "pulled_back": Column("pulled back", _largest("samples_pulled_back"), "count"),
    "seconds": Column("seconds", lambda result: result["seconds"], "count"),
}
"""Every figure that can stand in a table, by the name that ``--columns`` takes."""
USUAL = (
    "student",
    "best",
    "mean",
    "variance",
    "agreement",
    "fidelity",
    "ensemble",
    "asked",
    "seconds",
)
_SHARED = ("ensemble", "teachers", "epsilon", "asked", "pulled_back")
"""Seeds mostly share these; their deviation is written only where they do not."""


def chosen(columns: str | None, rows_promise: bool = False) -> tuple[str, ...]:
    """Columns by name, with commas between them; the usual ones, and epsilon where promised.

    Raises:
        SettingsError: there is none of that name.
    """
    if columns is None:
        return (*USUAL[:-2], "epsilon", *USUAL[-2:]) if rows_promise else USUAL
    names = tuple(name.strip() for name in columns.split(","))
    for name in names:
        if name not in COLUMNS:
            raise SettingsError(
                f"--columns: no {name!r}{nearest(name, list(COLUMNS))}; choose among "
                f"{', '.join(COLUMNS)}"
            )
    return names


def markdown(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """The table for a document."""
    head = ["experiment", *(COLUMNS[column].heading for column in columns)]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * len(columns)]
    for row in rows:
        cells = [row.label, *(cell(row, column) for column in columns)]
        lines.append("| " + " | ".join(text.replace("|", "\\|") for text in cells) + " |")
    return "\n".join(lines) + "\n"


def table(rows: Sequence[Row], columns: Sequence[str], seeds: int) -> Table:
    """The same for a terminal."""
    drawn = Table(title=f"mean ± sd over {seeds} seeds", box=None)
    drawn.add_column("experiment", no_wrap=True)
    for column in columns:
        drawn.add_column(COLUMNS[column].heading, justify="right", no_wrap=True)
    for row in rows:
        drawn.add_row(row.label, *(cell(row, column) for column in columns))
    return drawn


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """Every figure of every run, a line each, as ``result.json`` has it; empty where not known."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("experiment", "seed", "method", "folder", *COLUMNS))
        for row in rows:
            for seed, (result, folder) in enumerate(zip(row.results, row.folders, strict=True)):
                figures = [column.of(result) for column in COLUMNS.values()]
                writer.writerow((row.label, seed, result["method"], folder.name, *figures))


def cell(row: Row, column: str) -> str:
    """``97.59% ± 0.16``; no deviation for a single seed, or where seeds share the value."""
    mean, deviation = row.mean(column), row.deviation(column)
    if mean is None:
        return "none" if column == "epsilon" else "not known"
    shown = COLUMNS[column].shown
    alone = len(row.values(column)) < 2 or (column in _SHARED and deviation == 0)
    factor = {"percent": 100.0, "points2": 1e4}.get(shown, 1.0)
    digits = {"percent": 2, "points2": 1, "number": 3, "count": 0, "epsilon": 2}[shown]
    unit = "%" if shown == "percent" else ""
    value = f"{factor * mean:,.{digits}f}{unit}"
    return value if alone else f"{value} ± {factor * deviation:,.{digits}f}"
