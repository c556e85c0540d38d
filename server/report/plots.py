"""Plots of the page as inline SVG: curriculum, generator terms, origins, class counts.

Each function returns one ``<svg>`` element, or None if the run recorded no such data.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from fedkd.server.report.institutions.many_institutions import MAX_SHOWN
from fedkd.server.report.plot_style import (
    ACCENT,
    FAINT,
    INK,
    PAGE,
    SERIES,
    SOFT,
    Series,
    by_width,
    figure,
    inline_svg,
    legend_of_lines,
    short,
    style,
    thin,
    thousands,
)
from fedkd.server.report.records.event_schema import Asked, Event, Generated, HeldBack, Trained
from fedkd.server.report.records.result_schema import TeacherRecord

NAMED_TEACHERS = 8
"""Limit of names beside a plot."""
LINES = MAX_SHOWN
"""Limit of lines of teachers in a plot."""
_RASTER_CELLS = 1500
"""A heat map with more cells is embedded as a raster image, which is smaller."""


def curriculum(events: Sequence[Event]) -> str | None:
    """Difficulty, mean weight and lambda of the curriculum over the student's steps."""
    steps = [event for event in events if isinstance(event, Trained)]
    panels = {
        "Difficulty (mean loss of a sample)": _line((e.step, e.difficulty) for e in steps),
        "Mean weight of a sample": _line((e.step, e.weight) for e in steps),
        "Lambda of the curriculum": _line((e.step, e.curriculum_lambda) for e in steps),
    }
    return _small_panels("curriculum", panels, "student steps", "Curriculum over student steps")


def loss(events: Sequence[Event]) -> str | None:
    """The student's loss over its steps, for runs without a curriculum."""
    panels = {"Loss": _line((e.step, e.loss) for e in events if isinstance(e, Trained))}
    return _small_panels("loss", panels, "student steps", "Student loss over its steps")


def held_back(events: Sequence[Event]) -> str | None:
    """Scores on samples that the student never learned from, against their fused answers."""
    scores = [event for event in events if isinstance(event, HeldBack)]
    panels = {
        "Decides as the fused answer (share)": _line((e.step, e.agreement) for e in scores),
        "KL to the fused answer (nats)": _line((e.step, e.kl) for e in scores),
        "Calibration error": _line((e.step, e.ece) for e in scores),
        "R² to the fused answer": _line((e.step, e.r2) for e in scores),
        "Relations as the mean (correlation)": _line(
            (e.step, e.relation_correlation) for e in scores
        ),
    }
    return _small_panels("held_back", panels, "student steps", "Scores on held-back samples")


def generator(events: Sequence[Event]) -> str | None:
    """Each term of the generator's objective over its steps, and each weight that changed."""
    steps = [event for event in events if isinstance(event, Generated)]
    names = dict.fromkeys(name for event in steps for name in event.terms)
    panels = {name: _line((e.step, e.terms.get(name)) for e in steps) for name in names}
    for name in names:
        if len({event.weights.get(name) for event in steps}) > 1:
            weight = _line((e.step, e.weights.get(name)) for e in steps)
            panels[f"weight of {name}"] = weight
    return _small_panels("generator", panels, "generator steps", "Terms of the generator")


def origins(events: Sequence[Event], entropy_of: str = "Class entropy") -> str | None:
    """Shares of the sources of the asked samples, and entropy of the answers.

    ``entropy_of`` begins the title of the second.
    """
    asks = [event for event in events if isinstance(event, Asked)]
    if not asks or asks[-1].asked == 0:
        return None
    colours = origin_colours(events)
    varied = {
        name: _line((ask.asked, ask.class_entropy.get(name)) for ask in asks) for name in colours
    }
    overall = _line((ask.asked, ask.entropy) for ask in asks)
    across = by_width(2)
    with style("origins"):
        drawn = figure(height=330 if across == 2 else 560 + 20 * -(-len(colours) // 2))
        shares, entropy = drawn.subplots(2 // across, across)
        edges, heights = _shares(asks, list(colours))
        base = np.zeros(len(edges) - 1)
        keys: list[Artist] = []
        for name, height in zip(colours, heights, strict=True):
            look = {"color": colours[name], "edgecolor": PAGE, "linewidth": 0.4}
            bars = shares.bar(edges[:-1], height, np.diff(edges), base, align="edge", **look)
            keys.append(bars[0])
            base = base + height
        shares.set(xlim=(edges[0], edges[-1]), ylim=(0, 1))
        shares.set_title("Share of each origin", color=SOFT)
        shares.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        for name, (xs, ys) in varied.items():
            entropy.plot(xs, ys, color=colours[name], **_dot_if_alone(xs))
        keys += entropy.plot(*overall, color=INK, ls=(0, (5, 3)), **_dot_if_alone(overall[0]))
        entropy.set_title(f"{entropy_of} of the teachers' answers", color=SOFT)
        entropy.set(xlim=(0, 1.02 * edges[-1]), ylim=(0, 1.08 * entropy.get_ylim()[1]))
        for axes in (shares, entropy):
            axes.set_xlabel("samples asked of each teacher")
            thousands(axes)
        labels = [*map(short, colours), "all together"]
        drawn.legend(keys, labels, loc="outside lower center", ncols=by_width(6, 2))
        return inline_svg(drawn, "origins", f"Origins of the samples, {entropy_of}")


def origin_colours(events: Sequence[Event]) -> dict[str, str]:
    """A colour for each origin, in the order in which they were first asked about."""
    asks = [event for event in events if isinstance(event, Asked)]
    names = dict.fromkeys(name for ask in asks for name in (ask.origin, *ask.class_entropy))
    return {name: SERIES[index % len(SERIES)] for index, name in enumerate(names)}


def class_counts(teachers: Sequence[TeacherRecord], names: Sequence[str]) -> str | None:
    """Heat map of the training samples by institution and class, from those that release them.

    ``names`` are those of the columns; without any they are numbers.
    """
    known_teachers = [teacher for teacher in teachers if teacher.class_counts][:MAX_SHOWN]
    known = [(teacher, teacher.class_counts) for teacher in known_teachers if teacher.class_counts]
    if not known:
        return None
    names = names or [str(index) for index in range(max(len(counts) for _, counts in known))]
    classes = len(names)
    table = np.full((len(known), classes), np.nan)
    column = {name: index for index, name in enumerate(names)}
    for row, (teacher, counts) in enumerate(known):
        own = [column[name] for name in teacher.classes or names[: len(counts)]]
        table[row, own] = counts
    with style("counts"):
        drawn = figure(height=62 + 30 * len(known))
        axes = drawn.subplots()
        axes.grid(visible=False)
        # By opacity, so that the strongest stands out on a light page and on a dark one.
        shades = LinearSegmentedColormap.from_list("counts", [(ACCENT, 0.05), (ACCENT, 1.0)])
        axes.pcolormesh(
            table,
            cmap=shades,
            vmin=0,
            edgecolors=PAGE,
            linewidth=1.5,
            rasterized=table.size > _RASTER_CELLS,
        )
        if classes <= by_width(20, 10):
            _write_counts(axes, table)
            turn = 90 if max(map(len, names)) > by_width(8, 2) and by_width(0) else 0
            letters = [short(name) for name in names]
            axes.set_xticks(np.arange(classes) + 0.5, letters, rotation=turn)
        labels = [short(teacher.name, by_width(22, 14)) for teacher, _ in known]
        axes.set_yticks(np.arange(len(known)) + 0.5, labels)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.invert_yaxis()
        axes.set_xlabel("class")
        return inline_svg(drawn, "counts", "Training samples by institution and class")


def difficulty_by_institution(events: Sequence[Event]) -> str | None:
    """Mean loss of the student against each institution's answers, over its steps."""
    steps = [
        (event.step, event.difficulty_by_institution)
        for event in events
        if isinstance(event, Trained) and event.difficulty_by_institution
    ]
    names = dict.fromkeys(name for _, by_name in steps for name in by_name)
    if not names:
        return None
    last = {name: value for _, by_name in steps for name, value in by_name.items()}
    ranked = sorted(names, key=lambda name: last[name] or 0.0, reverse=True)
    hardest, others = ranked[:NAMED_TEACHERS], thin(ranked[NAMED_TEACHERS:], LINES)
    shown = [name for name in names if name in {*hardest, *others}]
    with style("difficulty"):
        drawn = figure(
            height=by_width(270, 270 + 18 * -(-min(len(names), NAMED_TEACHERS + 1) // 2))
        )
        axes = drawn.subplots()
        lines: list[tuple[str, Artist]] = []
        # Those without a colour first, so that they lie beneath.
        for name in sorted(shown, key=hardest.__contains__):
            xs, ys = _line((step, by_name.get(name)) for step, by_name in steps)
            own = name in hardest
            colour = SERIES[hardest.index(name) % len(SERIES)] if own else FAINT
            (line,) = axes.plot(xs, ys, color=colour, lw=1.5 if own else 0.8, **_dot_if_alone(xs))
            lines.append((short(name) if own else _others(len(names) - len(hardest)), line))
        axes.set_xlabel("student steps")
        axes.set_ylim(bottom=0)
        thousands(axes, ticks=by_width(8, 4))
        # One key stands for all that have no colour of their own.
        keyed = lines[-len(hardest) :] + lines[: -len(hardest)][:1]
        labels, keys = zip(*keyed, strict=True)
        legend_of_lines(drawn, keys, labels)
        return inline_svg(drawn, "difficulty", "Difficulty by institution over student steps")


def _others(number: int) -> str:
    """Legend of the lines without a colour of their own."""
    return f"the {number} others" if number <= LINES else f"{LINES} of {number} others"


def _small_panels(name: str, panels: Mapping[str, Series], across: str, label: str) -> str | None:
    """One small plot for each series that has points, four in a row."""
    filled = {title: series for title, series in panels.items() if series[0]}
    if not filled:
        return None
    beside = min(by_width(4), len(filled))
    rows = -(-len(filled) // beside)
    with style(name):
        drawn = figure(height=215 * rows)
        grid = drawn.subplots(rows, beside, squeeze=False).flat
        for axes, (title, (xs, ys)) in zip(grid, filled.items(), strict=False):
            axes.plot(xs, ys, color=ACCENT, lw=1.5, **_dot_if_alone(xs))
            axes.set_title(short(title, 36), color=SOFT)
            axes.set_xlabel(across)
            axes.margins(y=0.12)
            thousands(axes, ticks=4)
        for axes in list(drawn.axes)[len(filled) :]:
            axes.set_visible(False)
        return inline_svg(drawn, name, label)


def _write_counts(axes: Axes, table: NDArray[np.float64]) -> None:
    darkest = max(1.0, float(np.nanmax(table)))
    for (row, column), count in np.ndenumerate(table):
        if not np.isnan(count):
            axes.text(
                column + 0.5,
                row + 0.5,
                f"{count:,.0f}",
                ha="center",
                va="center",
                fontsize=by_width(11, 9),
                color=PAGE if count > 0.4 * darkest else SOFT,
            )


def _shares(
    asks: Sequence[Asked], names: Sequence[str]
) -> tuple[NDArray[np.float64], list[NDArray[np.float64]]]:
    """Edges of equal bins of asked samples, and the share of each origin in every bin."""
    totals = np.array([0.0, *(float(ask.asked) for ask in asks)])
    new = np.diff(totals)
    edges = np.linspace(0.0, totals[-1], min(40, len(asks)) + 1)
    shares = []
    for name in names:
        mine = np.cumsum([0.0, *np.where([ask.origin == name for ask in asks], new, 0.0)])
        shares.append(np.diff(np.interp(edges, totals, mine)) / np.diff(edges))
    return edges, shares


def _line(points: Iterable[tuple[int, float | None]]) -> Series:
    """Points to draw: those that have a value, thinned."""
    known = thin([(float(x), y) for x, y in points if y is not None], by_width(200, 90))
    return [x for x, _ in known], [y for _, y in known]


def _dot_if_alone(xs: Sequence[float]) -> dict[str, Any]:
    """A line through one point is invisible."""
    return {"marker": "o", "markersize": 4} if len(xs) == 1 else {}
