"""Pictures of predictions: predicted against true numbers, confidence against accuracy."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from fedkd.server.report.formatting import count, percent
from fedkd.server.report.output_format import number_axis, recorded_numbers
from fedkd.server.report.plot_style import (
    ACCENT,
    FAINT,
    INK,
    SOFT,
    both_widths,
    by_width,
    figure,
    inline_svg,
    short,
    style,
)
from fedkd.server.report.records.run_arrays import take_array
from fedkd.server.report.records.run_record import RunRecord
from fedkd.server.report.tables.predictions import BINS, expected_error

_PANELS = 4
"""Limit of numbers with a picture of their own."""


@dataclass(frozen=True)
class PredictionPicture:
    """A picture with its heading and caption."""

    heading: str
    svg: str | None
    caption: str


def numbers_picture(record: RunRecord) -> PredictionPicture | None:
    """Predicted against true numbers; without test data against the ensemble's answers.

    Raises:
        DataError: the kept arrays are malformed.
    """
    if record.predictions is None:
        return None
    outputs = len(recorded_numbers(record.result.task))
    student = take_array(record.predictions, "student", (None, outputs), "f")
    ensemble = take_array(record.predictions, "ensemble", student.shape, "f")
    has_truth = "truth" in record.predictions
    if has_truth:
        truth = take_array(record.predictions, "truth", student.shape, "f")
        panels = [("student", n, truth, student) for n in range(min(_PANELS, outputs))]
        if outputs == 1:
            panels.append(("ensemble", 0, truth, ensemble))
        caption = f"Each dot is one of {count(len(student))} test samples"
    else:
        panels = [("student", n, ensemble, student) for n in range(min(_PANELS, outputs))]
        caption = (
            f"Each dot is one of {count(len(student))} rows of the bank, on which the student was "
            "trained: the coordinator has no test data"
        )
    more = outputs - _PANELS
    caption += "; on the line, both are equal."
    caption += f" {more} further numbers are not shown." if more > 0 else ""
    return PredictionPicture(
        "Predicted against true" if has_truth else "Student against the ensemble",
        both_widths(lambda: _scatter(record, panels, "truth" if has_truth else "ensemble")),
        caption,
    )


def _scatter(
    record: RunRecord,
    panels: list[tuple[str, int, NDArray[Any], NDArray[Any]]],
    across: str,
) -> str:
    """One panel for each (who, output, values along x, values along y), both axes alike."""
    beside = min(len(panels), by_width(_PANELS))
    rows = len(panels) // beside
    with style("predictions"):
        drawn = figure(height=by_width(330, 285) * rows)
        grid = drawn.subplots(rows, beside, squeeze=False).flat
        for axes, (who, output, x, y) in zip(grid, panels, strict=True):
            axis = number_axis(record.result, output)
            xs, ys = axis.of(x[:, output]), axis.of(y[:, output])
            finite = np.isfinite(xs) & np.isfinite(ys)
            both = np.concatenate([xs[finite], ys[finite]])
            ends = [both.min(), both.max()] if len(both) else [axis.low, axis.low + axis.span]
            axes.plot(ends, ends, color=FAINT, lw=1.2, zorder=1)
            colour = ACCENT if who == "student" else SOFT
            # Many dots in one path are small; a path for each is not.
            axes.plot(xs, ys, ls="", marker="o", ms=4, mec="none", color=colour, alpha=0.5)
            axes.set_xlabel(f"{across}: {short(axis.label, 40)}")
            axes.set_ylabel(who)
            axes.set_box_aspect(0.72 if len(panels) < 3 else 1)
            axes.locator_params(nbins=6 if len(panels) < 3 else 4)
        return inline_svg(drawn, "predictions", f"Predictions against {across}")


def calibration_picture(record: RunRecord) -> PredictionPicture | None:
    """Reliability diagram of student and ensemble; None without test data.

    Raises:
        DataError: the kept arrays are malformed.
    """
    if record.predictions is None:
        return None
    found = {
        who: take_array(record.predictions, who, (3, BINS), "f") for who in ("student", "ensemble")
    }
    samples = int(found["student"][0].sum())
    caption = (
        f"Over {count(samples)} test samples. On the line, a model is right as often as it says; "
        "below it, it is too sure. Small dots stand for few samples, and move by chance."
    )
    svg = both_widths(lambda: _calibration(found))
    return PredictionPicture("Confidence against accuracy", svg, caption)


def _calibration(found: Mapping[str, NDArray[Any]]) -> str:
    """Reliability diagram, and the share of samples at each confidence."""
    with style("calibration"):
        across = by_width(2)
        drawn = figure(height=330 if across == 2 else 640)
        line, bars = drawn.subplots(2 // across, across)
        line.plot([0, 1], [0, 1], color=FAINT, lw=1.2)
        for (who, bins), colour in zip(found.items(), (ACCENT, INK), strict=True):
            filled = bins[:, bins[0] > 0]
            dashes = "-" if who == "student" else (0, (5, 3))
            label = f"{who}, expected error {percent(expected_error(bins))}"
            line.plot(filled[1], filled[2], color=colour, ls=dashes, lw=1, label=label)
            share = bins[0] / bins[0].sum()
            line.scatter(filled[1], filled[2], 12 + 240 * share[bins[0] > 0], color=colour)
            edges = np.linspace(0, 1, BINS + 1)
            bars.stairs(share, edges, color=colour, ls=dashes, lw=1.6)
        _share_axes(line, "mean confidence", "accuracy", (-0.03, 1.05))
        _share_axes(bars, "confidence", "share of test samples", (0, None))
        least = min(float(edge) for bins in found.values() for edge in _first_edge(bins))
        line.set_xlim(least, 1.02)
        bars.set_xlim(least, 1.02)
        drawn.legend(loc="outside lower center", ncols=by_width(2))
        return inline_svg(drawn, "calibration", "Accuracy against confidence")


def _first_edge(bins: NDArray[np.float64]) -> NDArray[np.float64]:
    """Lower edge of the first bin with samples, (1,); of none (0,)."""
    return np.flatnonzero(bins[0] > 0)[:1] / BINS


def _share_axes(axes: Axes, across: str, up: str, limits: tuple[float, float | None]) -> None:
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.set_ylim(*limits)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
