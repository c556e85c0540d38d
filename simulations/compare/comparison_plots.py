"""The plots of a comparison: which there are, as files and as inline SVG of its page.

Scores of different tasks cannot be compared: each kind of task has plots of its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from fedkd.server.report.main_scores import main_score
from fedkd.server.report.plot_style import both_widths, inline_svg, style
from fedkd.simulations.compare.score_by_epsilon import draw_score_by_epsilon
from fedkd.simulations.compare.score_curves import draw_score_curves
from fedkd.simulations.compare.score_dots import draw_score_dots
from fedkd.simulations.compare.tables import MAIN_COLUMNS, ComparisonRow

_DOTS_PER_INCH = 110


@dataclass(frozen=True)
class ComparisonPlot:
    """One plot."""

    name: str
    """Of its files, without suffix."""
    heading: str
    caption: str
    draw: Callable[[], Figure]

    def save(self, path: Path) -> None:
        """Write it to the folder ``path`` as SVG and PNG; the same rows give the same bytes."""
        with style(self.name):
            canvas = self.draw()
            canvas.patch.set_visible(True)
            blank = {"Creator": None, "Date": None, "Format": None, "Type": None}
            canvas.savefig(path / f"{self.name}.svg", metadata=blank)
            canvas.savefig(path / f"{self.name}.png", dpi=_DOTS_PER_INCH)

    def svg(self) -> str:
        """Inline, for wide pages and for narrow ones."""
        return both_widths(self._inline) or ""

    def _inline(self) -> str:
        with style(self.name):
            return inline_svg(self.draw(), self.name, self.heading)


def comparison_plots(rows: Sequence[ComparisonRow]) -> list[ComparisonPlot]:
    """Last scores, scores against samples asked, and against epsilon where a row has one.

    Of rows of several kinds of tasks each kind has its own: ``comparison-classes`` and so on.
    """
    kinds = dict.fromkeys(row.task for row in rows)
    plots: list[ComparisonPlot] = []
    for kind in kinds:
        alike = [row for row in rows if row.task == kind and row.values(MAIN_COLUMNS[kind][0])]
        if alike:
            plots += _plots_of(alike, kind, "" if len(kinds) == 1 else f"-{kind}")
    return plots


def _plots_of(rows: Sequence[ComparisonRow], kind: str, suffix: str) -> list[ComparisonPlot]:
    score, seeds = main_score({"kind": kind}), max(len(row.folders) for row in rows)
    several = seeds > 1
    spread = f" ± sample standard deviation over {seeds} seeds" if several else ""
    dots = f"Large dots: mean{spread}. Small dots: single seeds. " if several else ""
    found = [
        ComparisonPlot(
            f"comparison{suffix}",
            f"{score.name[0].upper()}{score.name[1:]} of the last student",
            f"{dots}Diamonds: the ensemble that taught the student.",
            lambda: draw_score_dots(rows, score),
        ),
        ComparisonPlot(
            f"curves{suffix}",
            "While questions are asked",
            f"Lines: mean{spread}. "
            * several
            + "The dot at the end of a line is the last student, trained further after the last "
            "question.",
            lambda: draw_score_curves(rows, score),
        ),
    ]
    if any(row.values("epsilon") for row in rows):
        found.append(
            ComparisonPlot(
                f"epsilon{suffix}",
                "Score and privacy",
                f"Full dots: the student{spread and ', mean' + spread}. Hollow dots: the ensemble. "
                "Runs without a guarantee stand at the right edge.",
                lambda: draw_score_by_epsilon(rows, score),
            )
        )
    return found
