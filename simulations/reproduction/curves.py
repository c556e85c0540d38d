"""Draw and list what reproductions came to: accuracy against samples, and rows of a table.

    python -m fedkd.simulations.reproduction.curves FILE.json... [--svg FILE]

The files are those that ``fedkd reproduce METHOD --json FILE`` writes. Seeds of one regime with as
many rounds are one row of Markdown, and one panel of the SVG with a curve for each.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, NullFormatter

from fedkd.server.report.plot_style import ACCENT, SOFT, figure, style

PANELS = 4
"""Beside each other."""
PANEL_HEIGHT = 150
"""Pixels."""
Result = Mapping[str, Any]
"""What ``fedkd reproduce`` writes."""
Seeds = Sequence[Result]
"""Of one regime, in the order of their seeds."""
REGIME = ("method", "data", "networks", "rounds", "rounds_of_paper", "scored")
"""What seeds of one row have in common."""
HEADER = (
    "| regime | networks | rounds, of the paper's | samples | CPU s | teacher | last | each seed "
    "| best | paper |\n"
    "|---|---|---|---:|---:|---:|---:|---|---:|---:|"
)


def by_regime(results: Iterable[Result]) -> list[Seeds]:
    """Put seeds of one regime together, regimes in the order of their first file.

    Raises:
        ValueError: a seed of a regime was given twice.
    """
    found: dict[tuple[object, ...], dict[int, Result]] = {}
    for result in results:
        seeds = found.setdefault(tuple(result[key] for key in REGIME), {})
        if result["seed"] in seeds:
            raise ValueError(
                f"seed {result['seed']} of {result['method']} was given twice; name each run once"
            )
        seeds[result["seed"]] = result
    return [[seeds[seed] for seed in sorted(seeds)] for seeds in found.values()]


def rows_of(regimes: Iterable[Seeds]) -> Iterator[str]:
    """A row of Markdown for each: means over its seeds, of the last also the deviation."""
    for seeds in regimes:
        first, figures = seeds[0], [result["figure"] for result in seeds]
        rounds, total = first["rounds"], first["rounds_of_paper"]
        share = 100 * rounds / total
        published = first["published"]
        spread = f" ± {statistics.stdev(figures):.1f}" if len(figures) > 1 else ""
        each = (f"{result['seed']}: {result['figure']:.1f}" for result in seeds)
        cells = (
            f"`{first['method']}`",
            first["networks"],
            f"{rounds:,} of {total:,} ({share:.{0 if share >= 10 else 1}f} %)",
            f"{first['samples']:,}",
            f"{_mean(seeds, 'cpu_seconds'):.0f}",
            f"{_mean(seeds, 'teacher'):.1f}",
            f"{statistics.fmean(figures):.1f}{spread}",
            ", ".join(each),
            f"{_mean(seeds, 'best'):.1f}",
            "none" if published is None else f"{published:.2f}",
        )
        yield f"| {' | '.join(cells)} |"


def draw_curves(regimes: Sequence[Seeds]) -> Figure:
    """A panel for each, on the same axes, a curve a seed; a dashed line is its published figure."""
    lines = -(-len(regimes) // PANELS)
    canvas = figure(height=50 + PANEL_HEIGHT * lines)
    panels = canvas.subplots(lines, PANELS, sharex=True, sharey=True, squeeze=False)
    for axes, seeds in zip(panels.flat, regimes, strict=False):
        for result in seeds:
            axes.plot(*curve_of(result), color=ACCENT, lw=1)
        if seeds[0]["published"] is not None:
            axes.axhline(seeds[0]["published"], color=SOFT, lw=1, ls="--")
        axes.set_title(seeds[0]["method"], color=SOFT, fontsize=11)
    first = panels.flat[0]
    first.set_xscale("log")
    first.xaxis.set_major_formatter(EngFormatter(sep=""))  # 10k: text in an SVG has no exponents
    first.xaxis.set_minor_formatter(NullFormatter())
    first.set_ylim(0, 100)
    canvas.supxlabel("samples that the teacher answered", color=SOFT, fontsize=12)
    canvas.supylabel("student, %", color=SOFT, fontsize=12)
    for axes in panels.flat[len(regimes) :]:
        axes.set_visible(False)
    for axes in panels.flat[max(0, len(regimes) - PANELS) : len(regimes)]:
        axes.tick_params(labelbottom=True)
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


def _mean(seeds: Seeds, key: str) -> float:
    return statistics.fmean(result[key] for result in seeds)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        prog="python -m fedkd.simulations.reproduction.curves",
        description=(__doc__ or "").split("\n", 1)[0],
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="written by --json")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw the curves into this file")
    options = parser.parse_args(arguments)
    try:
        regimes = by_regime(json.loads(file.read_text()) for file in options.files)
    except ValueError as error:
        parser.error(str(error))
    print("\n".join((HEADER, *rows_of(regimes))))
    if options.svg is not None:
        save(lambda: draw_curves(regimes), options.svg)


if __name__ == "__main__":
    main()
