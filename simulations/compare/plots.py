"""Plots of a comparison: the main score against samples asked, and against epsilon.

Scores of different tasks cannot be compared: each kind of task has plots of its own.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter
from numpy.typing import NDArray

from fedkd.server.report.main_scores import MainScore, main_score
from fedkd.server.report.plot_style import FAINT, SERIES, SOFT, figure, short, style, thousands
from fedkd.server.report.records.result_schema import Scored
from fedkd.server.report.records.run_folder import load_run
from fedkd.server.report.score_plot import LEAST
from fedkd.simulations.compare.tables import MAIN_COLUMNS, ComparisonRow

_LINE = ("-", "--", ":", "-.")
"""Line styles, for more lines than colours."""
_DOTS_PER_INCH = 110
_LEGEND_ROW = 20
"""Pixels."""
_BANDS = 8
"""Most lines that are drawn with a band; more bands cover one another."""

Curve = NDArray[np.float64]


def plot_score_by_samples(rows: Sequence[ComparisonRow], path: Path) -> list[str]:
    """The main score against samples asked of each institution: ``comparison.svg`` and ``.png``.

    Rows of several kinds of tasks give ``comparison-classes`` and so on. Returns the names.
    """
    return [
        _plot_by_samples(alike, score, path, name)
        for name, score, alike in _by_task(rows, "comparison")
    ]


def plot_score_by_epsilon(rows: Sequence[ComparisonRow], path: Path) -> list[str]:
    """The last student's main score against epsilon: ``epsilon.svg`` and ``.png``.

    Named as those of `plot_score_by_samples`; none of rows that all lack a guarantee.
    """
    return [
        _plot_by_epsilon(alike, score, path, name)
        for name, score, alike in _by_task(rows, "epsilon")
        if any(row.values("epsilon") for row in alike)
    ]


def _by_task(
    rows: Sequence[ComparisonRow], name: str
) -> list[tuple[str, MainScore, list[ComparisonRow]]]:
    """Name of the plot, main score and rows of each kind of task."""
    kinds = dict.fromkeys(row.task for row in rows)
    return [
        (
            name if len(kinds) == 1 else f"{name}-{kind}",
            main_score({"kind": kind}),
            [row for row in rows if row.task == kind],
        )
        for kind in kinds
    ]


def _plot_by_samples(rows: Sequence[ComparisonRow], score: MainScore, path: Path, name: str) -> str:
    """One plot; returns its name.

    A line is the mean over seeds, a band one sample standard deviation to both sides, where lines
    are few. The dot at the end of a line is the last student, which was trained further after the
    last query. The names of many lines are in the order of the dots.
    """
    many = len(rows) > _BANDS
    columns = 4 if many else 2
    with style("compare"):
        canvas = figure(height=430 + _LEGEND_ROW * -(-len(rows) // columns))
        axes = canvas.subplots()
        lines: dict[Any, float] = {}
        for index, row in enumerate(rows):
            asked, curves, last = _curves(row, score)
            if not len(asked):
                continue
            appearance: dict[str, Any] = {"color": SERIES[index % len(SERIES)]}
            mean, deviation = curves.mean(0), _deviation(curves)
            dashes = _LINE[index // len(SERIES) % len(_LINE)]
            label = short(row.label, 24 if many else 56)
            lines[axes.plot(asked, mean, ls=dashes, label=label, **appearance)[0]] = last.mean()
            if not many:
                axes.fill_between(
                    asked, mean - deviation, mean + deviation, alpha=0.15, lw=0, **appearance
                )
            axes.plot([asked[-1]] * 2, [mean[-1], last.mean()], ls=":", lw=1, **appearance)
            axes.errorbar(
                asked[-1], last.mean(), _deviation(last), marker="o", ms=5, capsize=3, **appearance
            )
        axes.set_xlabel("samples asked of each institution")
        _score_axis(axes, score, list(lines.values()))
        thousands(axes, ticks=8)
        axes.set_xlim(left=0)
        axes.set_title("mean ± sd over seeds; dots: after the last student step", color=SOFT)
        order = sorted(lines, key=lambda line: -lines[line]) if many else list(lines)
        canvas.legend(handles=order, loc="outside lower center", ncols=columns)
        _save(canvas, path, name)
    return name


def _score_axis(axes: Axes, score: MainScore, last: Sequence[float]) -> None:
    """Label and format of y; the far too low scores of untrained students are cut off."""
    axes.set_ylabel(f"{score.name} on test data")
    if score.is_share:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    elif last and min(last) >= LEAST:
        axes.set_ylim(bottom=max(LEAST, axes.get_ylim()[0]))


def _plot_by_epsilon(rows: Sequence[ComparisonRow], score: MainScore, path: Path, name: str) -> str:
    """One plot; returns its name.

    Full dots: the student, with one sample standard deviation over seeds. Hollow dots: the ensemble
    that taught it. Runs without a guarantee are at the right edge.
    """
    families = dict.fromkeys(row.family for row in rows)
    epsilons = [row.mean("epsilon") for row in rows]
    numbers = sorted({epsilon for epsilon in epsilons if epsilon is not None})
    edge = numbers[-1] * max(2.0, (numbers[-1] / numbers[0]) ** 0.2)
    with style("epsilon"):
        canvas = figure(height=400 + _LEGEND_ROW * -(-len(families) // 2))
        axes = canvas.subplots()
        axes.set_xscale("log")
        for index, family in enumerate(families):
            points = [
                (edge if epsilon is None else epsilon, row)
                for row, epsilon in zip(rows, epsilons, strict=True)
                if row.family == family
            ]
            _family(axes, family, points, edge, SERIES[index % len(SERIES)])
        if None in epsilons:
            axes.axvline(math.sqrt(edge * numbers[-1]), color=FAINT, lw=1, ls=(0, (5, 3)))
        _epsilons(axes, numbers, edge if None in epsilons else None)
        axes.set_xlabel("ε, the largest of all institutions")
        _score_axis(axes, score, [])
        axes.set_title("full: student, mean ± sd over seeds; hollow: ensemble", color=SOFT)
        canvas.legend(loc="outside lower center", ncols=2)
        _save(canvas, path, name)
    return name


def _family(
    axes: Axes, family: str, rows: Sequence[tuple[float, ComparisonRow]], edge: float, colour: str
) -> None:
    student, ensemble = MAIN_COLUMNS[rows[0][1].task]
    scored = sorted(
        ((at, row) for at, row in rows if row.mean(student) is not None), key=lambda p: p[0]
    )
    xs = np.array([at for at, _ in scored])
    students = np.array([row.mean(student) for _, row in scored], dtype=float)
    deviation = [row.deviation(student) for _, row in scored]
    axes.errorbar(
        xs,
        students,
        deviation,
        ls="",
        marker="o",
        ms=6,
        capsize=4,
        color=colour,
        label=short(family, 56),
    )
    numbered = xs < edge  # a line to "none" would suggest values between
    axes.plot(xs[numbered], students[numbered], color=colour, lw=1.2)
    ensembles = np.array([row.mean(ensemble) for _, row in scored], dtype=float)
    axes.plot(xs, ensembles, ls="", marker="o", ms=6, mfc="none", color=colour, alpha=0.7)


def _epsilons(axes: Axes, numbers: Sequence[float], edge: float | None) -> None:
    """Ticks at the points, except where they would overlap."""
    ticks: list[float] = []
    for number in numbers:
        if not ticks or number / ticks[-1] > 1.12:
            ticks.append(number)
    ends = [*ticks, *([edge] if edge else [])]
    axes.xaxis.set_major_locator(FixedLocator(ends))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(
        FuncFormatter(
            lambda value, _: (
                "none"
                if edge and value == edge
                else f"{value:.2g}"
                if value < 100
                else f"{value:,.0f}"
            )
        )
    )
    axes.set_xlim(numbers[0] / 1.3, (edge or numbers[-1]) * 1.3)


def _curves(row: ComparisonRow, score: MainScore) -> tuple[Curve, Curve, Curve]:
    """Samples asked ``(n,)``, score there ``(seeds, n)``, and score of the last students."""
    runs = [_curve(folder, score) for folder in row.folders]
    runs = [run for run in runs if len(run[0])]
    if not runs:
        return np.empty(0), np.empty((0, 0)), np.empty(0)
    # Points where seeds were scored; they mostly agree, and missing scores are interpolated.
    grid = np.unique(np.concatenate([asked for asked, _ in runs]))
    grid = grid[(grid >= max(a[0] for a, _ in runs)) & (grid <= min(a[-1] for a, _ in runs))]
    curves = np.stack([np.interp(grid, asked, scores) for asked, scores in runs])
    return grid, curves, np.array(row.values(MAIN_COLUMNS[row.task][0]))


def _curve(folder: Path, score: MainScore) -> tuple[Curve, Curve]:
    """The first score at each number of samples asked: later ones measure training alone."""
    first: dict[int, float] = {}
    for event in load_run(folder).events:
        if isinstance(event, Scored) and (value := score.of(event)) is not None:
            first.setdefault(event.asked, value)
    return np.array(list(first), dtype=float), np.array(list(first.values()))


def _deviation(values: Curve) -> Curve:
    """Sample standard deviation over the first axis; 0 for one value."""
    return values.std(0, ddof=1) if len(values) > 1 else np.zeros(values.shape[1:])


def _save(canvas: Figure, path: Path, name: str) -> None:
    canvas.patch.set_visible(True)
    blank = {"Creator": None, "Date": None, "Format": None, "Type": None}
    canvas.savefig(path / f"{name}.svg", metadata=blank)
    canvas.savefig(path / f"{name}.png", dpi=_DOTS_PER_INCH)
