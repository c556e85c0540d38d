"""Plot of a comparison: the last student's main score against epsilon."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from fedkd.server.report.main_scores import MainScore
from fedkd.server.report.plot_style import FAINT, SERIES, SOFT, by_width, figure, short
from fedkd.simulations.compare.score_axis import score_axis
from fedkd.simulations.compare.tables import MAIN_COLUMNS, ComparisonRow

_LEGEND_ROW = 20
"""Pixels."""


def draw_score_by_epsilon(rows: Sequence[ComparisonRow], score: MainScore) -> Figure:
    """The last student's score against epsilon, of which at least one row has one.

    Full dots: the student, with one sample standard deviation over seeds. Hollow dots: the ensemble
    that taught it. Runs without a guarantee are at the right edge.
    """
    families = dict.fromkeys(row.family for row in rows)
    epsilons = [row.mean("epsilon") for row in rows]
    numbers = sorted({epsilon for epsilon in epsilons if epsilon is not None})
    edge = numbers[-1] * max(2.0, (numbers[-1] / numbers[0]) ** 0.2)
    beside = by_width(2)
    canvas = figure(height=400 + _LEGEND_ROW * -(-len(families) // beside))
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
    score_axis(axes, score, [])
    axes.set_title("full: student; hollow: ensemble", color=SOFT)
    canvas.legend(loc="outside lower center", ncols=beside)
    return canvas


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
        label=short(family, by_width(56, 40)),
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
