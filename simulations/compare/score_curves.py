"""Plot of a comparison: the main score against samples asked of each institution."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fedkd.server.report.main_scores import MainScore
from fedkd.server.report.plot_style import (
    ACCENT,
    FAINT,
    SERIES,
    SOFT,
    by_width,
    figure,
    short,
    thousands,
)
from fedkd.server.report.records.event_schema import Scored
from fedkd.server.report.records.run_folder import load_run
from fedkd.simulations.compare.score_axis import score_axis
from fedkd.simulations.compare.tables import MAIN_COLUMNS, ComparisonRow

BANDS = 4
"""Most rows that share one panel; of more, every row has a panel of its own."""
_LEGEND_ROW = 20
"""Pixels."""

Curve = NDArray[np.float64]
RowCurves = tuple[Curve, Curve, Curve]
"""Samples asked ``(n,)``, score there ``(seeds, n)``, and score of the last students."""


def draw_score_curves(rows: Sequence[ComparisonRow], score: MainScore) -> Figure:
    """The mean over seeds, with a band of one sample standard deviation to both sides.

    The dot at the end of a line is the last student, which was trained further after the last
    question. Many rows have a panel each, the best first, with the others in grey behind.
    """
    found = [(row, curves) for row in rows if len((curves := _curves(row, score))[0])]
    return _panels(found, score) if len(found) > BANDS else _shared_panel(found, score)


def _shared_panel(found: Sequence[tuple[ComparisonRow, RowCurves]], score: MainScore) -> Figure:
    beside = by_width(2)
    canvas = figure(height=430 + _LEGEND_ROW * -(-len(found) // beside))
    axes = canvas.subplots()
    for index, (row, curves) in enumerate(found):
        label = short(row.label, by_width(56, 40))
        _line(axes, curves, SERIES[index % len(SERIES)], label)
    axes.set_xlabel("samples asked of each institution")
    score_axis(axes, score, [curves[2].mean() for _, curves in found])
    thousands(axes, ticks=by_width(8, 4))
    axes.set_xlim(left=0)
    if len(found) > 1:
        canvas.legend(loc="outside lower center", ncols=beside)
    return canvas


def _panels(found: Sequence[tuple[ComparisonRow, RowCurves]], score: MainScore) -> Figure:
    beside = by_width(4, 2)
    lines = -(-len(found) // beside)
    canvas = figure(height=40 + 150 * lines)
    panels = list(canvas.subplots(lines, beside, sharex=True, sharey=True, squeeze=False).flat)
    ranked = sorted(found, key=lambda each: -each[1][2].mean())
    for axes, (row, own) in zip(panels, ranked, strict=False):
        for _, (asked, curves, _) in found:
            axes.plot(asked, curves.mean(0), color=FAINT, lw=0.6, zorder=1)
        _line(axes, own, ACCENT)
        axes.set_title(short(row.label, by_width(30, 22)), color=SOFT, fontsize=11)
        thousands(axes, ticks=3)
    score_axis(panels[0], score, [curves[2].mean() for _, curves in found])
    panels[0].set_ylabel("")
    panels[0].set_xlim(left=0)
    for axes in panels[len(ranked) :]:
        axes.set_visible(False)
    canvas.supxlabel("samples asked of each institution", color=SOFT, fontsize=12)
    canvas.supylabel(f"{score.name} on test data", color=SOFT, fontsize=12)
    return canvas


def _line(axes: Axes, curves: RowCurves, colour: str, label: str = "") -> None:
    """Mean, band, and the last student."""
    asked, scores, last = curves
    mean, deviation = scores.mean(0), _deviation(scores)
    look: dict[str, Any] = {"color": colour}
    axes.plot(asked, mean, label=label, **look)
    axes.fill_between(asked, mean - deviation, mean + deviation, alpha=0.15, lw=0, **look)
    axes.plot([asked[-1]] * 2, [mean[-1], last.mean()], ls=":", lw=1, **look)
    axes.errorbar(asked[-1], last.mean(), _deviation(last), marker="o", ms=5, capsize=3, **look)


def _curves(row: ComparisonRow, score: MainScore) -> RowCurves:
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
