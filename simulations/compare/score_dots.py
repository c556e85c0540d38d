"""Plot of a comparison: the last students' main score, a line of dots for each row."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from fedkd.server.report.main_scores import MainScore
from fedkd.server.report.plot_style import ACCENT, FAINT, INK, SOFT, by_width, figure, short
from fedkd.simulations.compare.tables import MAIN_COLUMNS, ComparisonRow, cell

_ROW_HEIGHT = 26
_NARROW_ROW_HEIGHT = 44
"""Pixels; on a narrow page the name of a row stands above its dots."""


def draw_score_dots(rows: Sequence[ComparisonRow], score: MainScore) -> Figure:
    """Every row's mean with one sample standard deviation to both sides, the best row first.

    Small dots are single seeds, hollow diamonds the ensemble that taught the student.
    """
    student, ensemble = MAIN_COLUMNS[rows[0].task]
    means = [(mean, row) for row in rows if (mean := row.mean(student)) is not None]
    means.sort(key=lambda each: each[0])
    scored = [row for _, row in means]
    canvas = figure(height=90 + by_width(_ROW_HEIGHT, _NARROW_ROW_HEIGHT) * max(2, len(scored)))
    axes = canvas.subplots()
    axes.grid(visible=False, axis="y")
    for place, (mean, row) in enumerate(means):
        values = row.values(student)
        axes.axhline(place, color=FAINT, lw=0.5, zorder=0)
        if len(values) > 1:
            axes.plot(values, [place] * len(values), ls="", marker="o", ms=3, color=SOFT, zorder=2)
            axes.errorbar(
                *(mean, place), xerr=row.deviation(student), color=ACCENT, lw=2.4, zorder=3
            )
        axes.plot(mean, place, marker="o", ms=7, color=ACCENT, zorder=4)
        if (taught := row.mean(ensemble)) is not None:
            axes.plot(taught, place, marker="D", ms=5, mfc="none", color=INK, zorder=3)
        axes.annotate(
            cell(row, student),
            (1, place),
            xycoords=("axes fraction", "data"),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            fontsize=by_width(11, 9),
            color=INK,
            annotation_clip=False,
        )
    axes.set_ylim(-0.7, len(scored) - 0.3)
    axes.tick_params(axis="y", length=0)
    if by_width(1, 0):
        axes.set_yticks(range(len(scored)), [short(row.label, 44) for row in scored])
    else:
        axes.set_yticks([])
        _name_above(axes, scored)
    if score.is_share:
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.locator_params(axis="x", nbins=by_width(8, 4))
    axes.set_xlabel(f"{score.name} on test data")
    return canvas


def _name_above(axes: Axes, rows: Sequence[ComparisonRow]) -> None:
    """Write the name of each row above its dots, where there is no room beside them."""
    for place, row in enumerate(rows):
        axes.annotate(
            short(row.label, 40),
            (0, place),
            xycoords=("axes fraction", "data"),
            xytext=(2, 7),
            textcoords="offset points",
            fontsize=10,
            color=SOFT,
        )
