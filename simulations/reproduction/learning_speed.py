"""Which reproduction learned fastest and most steadily: rows of a table, and curves in one plot.

    python -m fedkd.simulations.reproduction.learning_speed FILE.json... [--svg FILE]

The files are those that ``fedkd reproduce REGIME --json FILE`` writes, at about equal samples; each
is called as its file is. CuDFKD's paper compares methods by these figures.
"""

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from matplotlib.figure import Figure

from fedkd.evaluation.metrics import training_stability
from fedkd.server.report.plot_style import SERIES, SOFT, figure, legend_of_lines
from fedkd.simulations.reproduction.curves import Result, curve_of, save

HEADER = (
    "| run | last | best | mean | variance | mean, second half | variance, second half "
    "| to 95 % of its own best | to 95 % of the teacher |\n"
    "|---|---:|---:|---:|---:|---:|---:|---:|---:|"
)
REACHED = 0.95
"""Share of a score from which it counts as reached."""


def rows_of(results: Mapping[str, Result]) -> Iterator[str]:
    """A row of Markdown for each: percent and squared points; shares of the rounds of that run.

    Mean and variance are of the scores on the way, evenly spaced over the rounds.
    """
    for name, result in results.items():
        scores = [score / 100 for score in curve_of(result)[1]]
        cells = [f"`{name}`", f"{result['figure']:.1f}", f"{result['best']:.1f}"]
        for part in (1.0, 0.5):
            found = training_stability(scores, part)
            cells += (
                ["", ""]
                if found is None
                else [f"{100 * found.mean:.1f}", f"{1e4 * found.variance:.1f}"]
            )
        cells += [_reached(result, result["best"]), _reached(result, result["teacher"])]
        yield f"| {' | '.join(cells)} |"


def draw(results: Mapping[str, Result]) -> Figure:
    """All curves over samples; a dashed line is the first one's teacher."""
    canvas = figure(height=380)
    axes = canvas.subplots()
    lines = []
    for number, result in enumerate(results.values()):
        style = "-" if number < len(SERIES) else "--"
        lines += axes.plot(*curve_of(result), color=SERIES[number % len(SERIES)], ls=style)
    axes.axhline(next(iter(results.values()))["teacher"], color=SOFT, lw=1, ls="--")
    axes.set_ylim(0, 100)
    axes.set_xlim(left=0)
    axes.set_xlabel("samples that the teacher answered")
    axes.set_ylabel("student, %")
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    legend_of_lines(canvas, lines, list(results))
    return canvas


def _reached(result: Result, whole: float) -> str:
    """Share of the run's rounds at its first score of 95 % of ``whole``, in words."""
    for rounds, _, score in result["curve"]:
        if score >= REACHED * whole:
            return f"{rounds / result['rounds']:.0%}".replace("%", " %")
    return "never"


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        prog="python -m fedkd.simulations.reproduction.learning_speed",
        description=(__doc__ or "").split("\n", 1)[0],
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="written by --json")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw the curves into this file")
    options = parser.parse_args()
    results = {file.stem: json.loads(file.read_text()) for file in options.files}
    print("\n".join((HEADER, *rows_of(results))))
    if options.svg is not None:
        save(lambda: draw(results), options.svg)


if __name__ == "__main__":
    main()
