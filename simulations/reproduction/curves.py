"""Draw and list what reproductions came to: accuracy against samples, and rows of a table.

    python -m fedkd.simulations.reproduction.curves FILE.json... [--svg FILE]

The files are those that ``fedkd reproduce METHOD --json FILE`` writes. It prints a row of Markdown
for each, and draws a panel for each into the SVG.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from fedkd.server.report.plot_style import ACCENT, SOFT, figure, style

PANELS = 4
"""Beside each other."""
PANEL_HEIGHT = 150
"""Pixels."""
Result = Mapping[str, Any]
"""What ``fedkd reproduce`` writes."""


def rows_of(results: Sequence[Result]) -> Iterator[str]:
    """A row of Markdown for each: method, networks, rounds, samples, seconds, figures."""
    for result in results:
        rounds, total = result["rounds"], result["rounds_of_paper"]
        share = 100 * rounds / total
        published = result["published"]
        cells = (
            f"`{result['method']}`",
            result["networks"],
            f"{rounds:,} of {total:,} ({share:.{0 if share >= 10 else 1}f} %)",
            f"{result['samples']:,}",
            f"{result['cpu_seconds']:.0f}",
            f"{result['figure']:.1f}",
            f"{result['best']:.1f}",
            "none" if published is None else f"{published:.2f}",
        )
        yield f"| {' | '.join(cells)} |"


def draw_curves(results: Sequence[Result]) -> Figure:
    """A panel for each, on the same axes; a dashed line is its published figure."""
    lines = -(-len(results) // PANELS)
    canvas = figure(height=50 + PANEL_HEIGHT * lines)
    panels = canvas.subplots(lines, PANELS, sharex=True, sharey=True, squeeze=False)
    for axes, result in zip(panels.flat, results, strict=False):
        axes.plot(*curve_of(result), color=ACCENT)
        if result["published"] is not None:
            axes.axhline(result["published"], color=SOFT, lw=1, ls="--")
        axes.set_title(result["method"], color=SOFT, fontsize=11)
    first = panels.flat[0]
    first.set_xscale("log")
    first.set_ylim(0, 100)
    canvas.supxlabel("samples that the teacher answered", color=SOFT, fontsize=12)
    canvas.supylabel("student, %", color=SOFT, fontsize=12)
    for axes in panels.flat[len(results) :]:
        axes.set_visible(False)
    return canvas


def save(draw: Callable[[], Figure], path: Path) -> None:
    """Write a drawing as SVG, with a white page behind; the same drawing gives the same bytes."""
    with style(path.stem):
        canvas = draw()
        canvas.patch.set_visible(True)
        blank = {"Creator": None, "Date": None, "Format": None, "Type": None}
        canvas.savefig(path, format="svg", metadata=blank)


def curve_of(result: Result) -> tuple[list[int], list[float]]:
    """Samples and accuracies, from the curve on the way."""
    points = [(int(samples), float(score)) for _, samples, score in result["curve"]]
    return [samples for samples, _ in points], [score for _, score in points]


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        prog="python -m fedkd.simulations.reproduction.curves",
        description=(__doc__ or "").split("\n", 1)[0],
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="written by --json")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw the curves into this file")
    options = parser.parse_args(arguments)
    results = [json.loads(file.read_text()) for file in options.files]
    for row in rows_of(results):
        print(row)
    if options.svg is not None:
        save(lambda: draw_curves(results), options.svg)


if __name__ == "__main__":
    main()
