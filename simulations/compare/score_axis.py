"""Label and format of the axis of a main score in the plots of a comparison."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from fedkd.server.report.main_scores import MainScore
from fedkd.server.report.score_plot import LEAST


def score_axis(axes: Axes, score: MainScore, last: Sequence[float]) -> None:
    """Label and format of y; the far too low scores of untrained students are cut off."""
    axes.set_ylabel(f"{score.name} on test data")
    if score.is_share:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    elif last and min(last) >= LEAST:
        axes.set_ylim(bottom=max(LEAST, axes.get_ylim()[0]))
