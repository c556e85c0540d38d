"""The pictures of a comparison. Knows what runs recorded, and nothing of how they went."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter
from numpy.typing import NDArray

from fedkd.server.report.plot_style import FAINT, SERIES, SOFT, figure, short, style, thousands
from fedkd.server.report.result_records import Scored
from fedkd.server.report.run_folder import load
from fedkd.simulations.compare.tables import Row

_LINE = ("-", "--", ":", "-.")
"""Lines beyond the colours that can be told apart."""
_DOTS_PER_INCH = 110
_LEGEND_ROW = 20
"""Pixels."""
_BANDS = 8
"""Lines of which each may have its band; those of more cover one another."""

Curve = NDArray[np.float64]


def draw_asked(rows: Sequence[Row], path: Path) -> None:
    """Accuracy against samples asked of each institution: ``comparison.svg`` and ``.png``.

    A line is the mean over seeds, a band one sample standard deviation to both sides, as long as
    there are few. The dot at a line's end is the last student: it has trained on after the last
    question. Of many lines the names stand in the order of the dots.
    """
    many = len(rows) > _BANDS
    columns = 4 if many else 2
    with style("compare"):
        drawn = figure(height=430 + _LEGEND_ROW * -(-len(rows) // columns))
        axes = drawn.subplots()
        lines: dict[Any, float] = {}
        for index, row in enumerate(rows):
            asked, curves, last = _curves(row)
            if not len(asked):
                continue
            look: dict[str, Any] = {"color": SERIES[index % len(SERIES)]}
            mean, spread = curves.mean(0), _deviation(curves)
            dashes = _LINE[index // len(SERIES) % len(_LINE)]
            name = short(row.label, 24 if many else 56)
            lines[axes.plot(asked, mean, ls=dashes, label=name, **look)[0]] = last.mean()
            if not many:
                axes.fill_between(asked, mean - spread, mean + spread, alpha=0.15, lw=0, **look)
            axes.plot([asked[-1]] * 2, [mean[-1], last.mean()], ls=":", lw=1, **look)
            axes.errorbar(
                asked[-1], last.mean(), _deviation(last), marker="o", ms=5, capsize=3, **look
            )
        axes.set_xlabel("samples asked of each institution")
        axes.set_ylabel("accuracy on test data")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        thousands(axes, ticks=8)
        axes.set_xlim(left=0)
        axes.set_title("mean ± sd over seeds; dots: after the last student step", color=SOFT)
        order = sorted(lines, key=lambda line: -lines[line]) if many else list(lines)
        drawn.legend(handles=order, loc="outside lower center", ncols=columns)
        _save(drawn, path, "comparison")


def draw_epsilon(rows: Sequence[Row], path: Path) -> None:
    """Accuracy of the last student against epsilon: ``epsilon.svg`` and ``.png``.

    Full dots: the student, with one sample standard deviation over seeds. Hollow ones: the
    ensemble that taught it. Who is promised nothing stands at the right edge, beyond every number.
    """
    families = dict.fromkeys(row.family for row in rows)
    promised = [row.mean("epsilon") for row in rows]
    numbers = sorted({epsilon for epsilon in promised if epsilon is not None})
    edge = numbers[-1] * max(2.0, (numbers[-1] / numbers[0]) ** 0.2)
    with style("epsilon"):
        drawn = figure(height=400 + _LEGEND_ROW * -(-len(families) // 2))
        axes = drawn.subplots()
        axes.set_xscale("log")
        for index, family in enumerate(families):
            own = [
                (edge if epsilon is None else epsilon, row)
                for row, epsilon in zip(rows, promised, strict=True)
                if row.family == family
            ]
            _family(axes, family, own, edge, SERIES[index % len(SERIES)])
        if None in promised:
            axes.axvline(math.sqrt(edge * numbers[-1]), color=FAINT, lw=1, ls=(0, (5, 3)))
        _epsilons(axes, numbers, edge if None in promised else None)
        axes.set_xlabel("ε, the largest of any institution's promise")
        axes.set_ylabel("accuracy on test data")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_title("full: student, mean ± sd over seeds; hollow: ensemble", color=SOFT)
        drawn.legend(loc="outside lower center", ncols=2)
        _save(drawn, path, "epsilon")


def _family(
    axes: Axes, family: str, rows: Sequence[tuple[float, Row]], edge: float, colour: str
) -> None:
    known = sorted(
        ((at, row) for at, row in rows if row.mean("student") is not None), key=lambda p: p[0]
    )
    xs = np.array([at for at, _ in known])
    students = np.array([row.mean("student") for _, row in known], dtype=float)
    spread = [row.deviation("student") for _, row in known]
    axes.errorbar(
        xs,
        students,
        spread,
        ls="",
        marker="o",
        ms=6,
        capsize=4,
        color=colour,
        label=short(family, 56),
    )
    numbered = xs < edge  # a line to "none" would claim a place between
    axes.plot(xs[numbered], students[numbered], color=colour, lw=1.2)
    ensembles = np.array([row.mean("ensemble") for _, row in known], dtype=float)
    axes.plot(xs, ensembles, ls="", marker="o", ms=6, mfc="none", color=colour, alpha=0.7)


def _epsilons(axes: Axes, numbers: Sequence[float], edge: float | None) -> None:
    """Ticks where points are, but for those that would stand in another's way."""
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


def _curves(row: Row) -> tuple[Curve, Curve, Curve]:
    """Samples asked ``(n,)``, accuracy there ``(seeds, n)``, and that of the last students."""
    runs = [_curve(folder) for folder in row.folders]
    runs = [run for run in runs if len(run[0])]
    if not runs:
        return np.empty(0), np.empty((0, 0)), np.empty(0)
    # Where the seeds were scored; they mostly agree, and where one lacks a score a line stands in.
    grid = np.unique(np.concatenate([asked for asked, _ in runs]))
    grid = grid[(grid >= max(a[0] for a, _ in runs)) & (grid <= min(a[-1] for a, _ in runs))]
    curves = np.stack([np.interp(grid, asked, accuracy) for asked, accuracy in runs])
    return grid, curves, np.array(row.values("student"))


def _curve(folder: Path) -> tuple[Curve, Curve]:
    """The first score at each number of samples asked: later ones tell of training alone."""
    first: dict[int, float] = {}
    for event in load(folder).events:
        if isinstance(event, Scored) and event.accuracy is not None:
            first.setdefault(event.asked, event.accuracy)
    return np.array(list(first), dtype=float), np.array(list(first.values()))


def _deviation(values: Curve) -> Curve:
    """Sample standard deviation over the first axis; 0 for one value."""
    return values.std(0, ddof=1) if len(values) > 1 else np.zeros(values.shape[1:])


def _save(drawn: Figure, path: Path, name: str) -> None:
    drawn.patch.set_visible(True)
    blank = {"Creator": None, "Date": None, "Format": None, "Type": None}
    drawn.savefig(path / f"{name}.svg", metadata=blank)
    drawn.savefig(path / f"{name}.png", dpi=_DOTS_PER_INCH)
