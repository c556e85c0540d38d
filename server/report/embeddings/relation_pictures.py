"""Pictures of relations: the institutions' mean beside the student's, sorted by group."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from numpy.typing import NDArray

from fedkd.server.report.formatting import count
from fedkd.server.report.plot_style import (
    ACCENT,
    INK,
    PAGE,
    both_widths,
    by_width,
    figure,
    inline_svg,
    style,
)
from fedkd.server.report.records.run_arrays import take_array
from fedkd.server.report.records.run_record import RunRecord
from fedkd.server.report.tables.prediction_plots import PredictionPicture

_COLOURS = LinearSegmentedColormap.from_list("relations", [PAGE, ACCENT])
_TITLES = {"ensemble": "Mean of the institutions", "student": "Student"}


def relations_picture(record: RunRecord) -> PredictionPicture | None:
    """Two matrices of relations.

    Raises:
        DataError: the kept arrays are malformed.
    """
    arrays = record.predictions
    if arrays is None:
        return None
    groups = take_array(arrays, "groups", (None,), "iu")
    matrices = {name: take_array(arrays, name, (len(groups),) * 2, "f") for name in _TITLES}
    sorted_by = "class" if len(np.unique(groups)) > 1 else "group"
    return PredictionPicture(
        "Who is like whom",
        both_widths(lambda: _drawn(matrices, groups)),
        f"Each row and column is one of {count(len(groups))} samples, sorted by {sorted_by}; "
        "darker is more alike (cosine, from 0 to 1). Where the student has learned the "
        "institutions' relations, both pictures have the same blocks.",
    )


def _drawn(matrices: dict[str, NDArray[np.floating]], groups: NDArray[np.integer]) -> str | None:
    across = by_width(2)
    with style("relations"):
        drawn = figure(height=460 if across == 2 else 720)
        panels = np.atleast_1d(drawn.subplots(2 // across, across)).flatten()
        for axes, (name, title) in zip(panels, _TITLES.items(), strict=True):
            _matrix(axes, matrices[name], groups)
            axes.set_title(title, color=INK)
        return inline_svg(
            drawn, "relations", "Relations of the institutions' mean and of the student"
        )


def _matrix(axes: Axes, relations: NDArray[np.floating], groups: NDArray[np.integer]) -> None:
    shown = relations.astype(np.float32)
    axes.imshow(shown, cmap=_COLOURS, vmin=0.0, vmax=1.0, interpolation="nearest", rasterized=True)
    middles = [float(np.flatnonzero(groups == group).mean()) for group in np.unique(groups)]
    several = len(middles) > 1
    axes.set_xticks(middles if several else [], np.unique(groups) if several else [])
    axes.set_yticks(middles if several else [], np.unique(groups) if several else [])
    axes.grid(visible=False)
