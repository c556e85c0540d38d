"""Plot of the student's main score, with ensemble and teachers to compare it with."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from fedkd.server.report.main_scores import MainScore, main_score
from fedkd.server.report.plot_style import (
    ACCENT,
    FAINT,
    INK,
    SOFT,
    by_width,
    figure,
    inline_svg,
    short,
    spread,
    style,
    thin,
    thousands,
)
from fedkd.server.report.plots import LINES, NAMED_TEACHERS
from fedkd.server.report.records.event_schema import Event, Scored
from fedkd.server.report.records.result_schema import Result

_Reference = tuple[float, str, bool]
"""A value to compare with, its name, whether it is emphasised."""
LEAST = -0.2
"""Lowest value of a score without a bound that is drawn, unless the student ends below it."""


def score_curve(result: Result, events: Sequence[Event]) -> str | None:
    """The student's main score while questions are asked, then after the last one."""
    score = main_score(result.task)
    scores = [
        (event.asked, event.step, value)
        for event in events
        if isinstance(event, Scored) and (value := score.of(event)) is not None
    ]
    if not scores:
        return None
    shown = _parts(scores)
    across = min(len(shown), by_width(2))
    rows = len(shown) // across
    with style("accuracy"):
        drawn = figure(height=340 if rows == 1 else 560)
        panels = list(drawn.subplots(rows, across, sharey=True, squeeze=False).flat)
        for axes, (title, label, points) in zip(panels, shown, strict=True):
            xs, ys = zip(*thin(points), strict=True)
            axes.plot(xs, ys, color=ACCENT, marker="o", markersize=3, zorder=3)
            axes.set_title(title, color=SOFT)
            axes.set_xlabel(label)
            thousands(axes)
        references = _references(result, score)
        values = [value for _, _, value in scores]
        _scale(panels[0], score, values, [value for value, _, _ in references])
        for axes in panels:
            for value, _, is_ensemble in references:
                dashes = (0, (5, 3)) if is_ensemble else "solid"
                axes.axhline(value, color=INK if is_ensemble else FAINT, lw=1, ls=dashes, zorder=1)
        last = shown[-1][2][-1]
        panels[len(shown) - 1].plot(*last, color=ACCENT, marker="o", markersize=6, zorder=4)
        _name_lines(
            panels[len(shown) - 1], [*references, (last[1], f"student {score.text(last[1])}", True)]
        )
        return inline_svg(drawn, "accuracy", f"Student {score.name} against samples asked")


def cut_below(result: Result, events: Sequence[Event]) -> str:
    """The lowest value that `score_curve` shows, where scores lie below it; else empty."""
    score = main_score(result.task)
    values = [value for e in events if isinstance(e, Scored) and (value := score.of(e)) is not None]
    if not values:
        return ""
    least = _lowest_drawn(score, values, [value for value, _, _ in _references(result, score)])
    return score.text(least) if min(values) < least else ""


def _lowest_drawn(score: MainScore, values: Sequence[float], compared: Sequence[float]) -> float:
    """The lowest value in a plot of these scores; what is lower is beyond its edge.

    A score without a bound begins far below, where an untrained student says nothing of the run.
    """
    least = min([*values, *compared])
    if score.is_share or min([values[-1], *compared]) < LEAST:
        return least
    return max(least, LEAST)


def _parts(
    scores: Sequence[tuple[int, int, float]],
) -> list[tuple[str, str, list[tuple[int, float]]]]:
    """Title, label of x, and points of the panels that have a line."""
    total = max(asked for asked, _, _ in scores)
    after = [(step, value) for asked, step, value in scores if asked == total]
    asking = [(asked, value) for asked, _, value in scores if asked < total]
    asking += [(total, after[0][1])]
    parts = [
        ("While questions are asked", "samples asked of each teacher", asking),
        ("After the last question", "student steps", after),
    ]
    return [part for part in parts if len(part[2]) > 1] or parts[:1]


def _scale(
    axes: Axes, score: MainScore, values: Sequence[float], compared: Sequence[float]
) -> None:
    """Limits of y, and percent for shares."""
    least, most = _lowest_drawn(score, values, compared), max([*values, *compared])
    margin = 0.04 + 0.06 * (most - least)
    low = least - margin
    axes.set_ylim(max(0, low) if score.is_share else low, min(1.01, most + margin))
    if score.is_share:
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    else:
        axes.set_ylabel(score.name)


def _references(result: Result, score: MainScore) -> list[_Reference]:
    """Scores to compare the student's with."""
    known = [(own, t.name) for t in result.teachers if (own := score.of(t)) is not None]
    named = len(known) <= NAMED_TEACHERS
    letters = by_width(22, 14)
    lines = [(value, short(name, letters) if named else "", False) for value, name in known]
    if not named:
        best = max(value for value, _ in known)
        lines[[value for value, _ in known].index(best)] = (best, "best teacher", False)
    if len(lines) > LINES:
        lines = list(thin(sorted(lines), LINES))
    if (value := score.of(result.ensemble)) is not None:
        lines.append((value, f"ensemble {score.text(value)}", True))
    return lines


def _name_lines(axes: Axes, lines: Sequence[_Reference]) -> None:
    """Write the names of horizontal lines beside them, moved apart where they collide."""
    named = [line for line in lines if line[1]]
    low, high = axes.get_ylim()
    gap = (high - low) * by_width(62, 82) / 1000
    places = spread([value for value, _, _ in named], gap, low, high)
    for place, (_, name, stands_out) in zip(places, named, strict=True):
        axes.annotate(
            name,
            (1, place),
            xycoords=("axes fraction", "data"),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            fontsize=11.5,
            color=INK if stands_out else SOFT,
            annotation_clip=False,
        )
