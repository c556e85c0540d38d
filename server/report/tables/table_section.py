"""The page's section on invented rows of a table, and on what the student makes of its columns."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.axes import Axes
from numpy.typing import NDArray

from fedkd.protocol import recorded_columns
from fedkd.protocol.tables import Column, decode_rows
from fedkd.server.report.formatting import count, value_in_unit
from fedkd.server.report.output_format import Axis
from fedkd.server.report.plot_style import (
    ACCENT,
    INK,
    SERIES,
    SOFT,
    both_widths,
    by_width,
    figure,
    inline_svg,
    short,
    style,
)
from fedkd.server.report.records.result_schema import Result
from fedkd.server.report.records.run_record import RunRecord
from fedkd.server.report.tables.table_rows import TableRows, read_rows

SHOWN_COLUMNS = 10
"""Columns of the table of rows: those on which the student depends most."""
_NAMED_LEVELS = 4
"""Levels of a column that are written along an axis."""

HTML = """\
<h3>A few of them, in order of asking</h3>
<div class="table"><table class="rows">
<thead><tr><th class="n">Samples asked</th><th>Origin</th>
{% for name in names %}<th class="n">{{ name }}</th>{% endfor %}
<th>The ensemble's answer</th></tr></thead>
<tbody>
{% for row in rows %}
<tr><td class="n">{{ row.asked_at | count }}</td><td><span class="origin"
 style="--dot:{{ colours.get(row.origin, "var(--faint)") }}">{{ row.origin }}</span></td>
{% for value in row.values %}<td class="n">{{ value }}</td>{% endfor %}
<td class="name">{{ row.answer }}</td></tr>
{% endfor %}
</tbody></table></div>
<p class="small">Columns from left to right as the student depends on them: by how much its answers
change where a column is shuffled among the banked rows.
{%- if hidden %} {{ hidden | count }} further
{{ "column is" if hidden == 1 else "columns are" }} not shown.{% endif %}

</p>
{% if curves %}
<h3>What the student makes of the main columns</h3>
<figure>{{ curves }}
<figcaption>Line: partial dependence of the student, its mean answer to banked rows in which that
column alone is set to a value. Squares: mean answer of the ensemble to the banked rows near that
value. Circles: mean answer of the student to the same rows, so circles on squares are a student
that follows its teachers. Where circles leave the line, the rows near that value also differ in
other columns.</figcaption></figure>
{% endif %}
"""


@dataclass(frozen=True)
class _Row:
    """One invented row as text."""

    asked_at: int
    origin: str
    values: Sequence[str]
    answer: str


def table_section(
    record: RunRecord,
    colours: dict[str, str],
    answer_text: Callable[[Result, NDArray[Any]], str],
    axis_of: Callable[[Result, int], Axis],
) -> Markup | None:
    """Rows and curves as HTML; None where the run kept none.

    Args:
        record: of a run on tables.
        colours: of the origins.
        answer_text: an answer of the ensemble in words.
        axis_of: an output as an axis.

    Raises:
        DataError: the kept arrays are malformed.
    """
    if record.rows is None:
        return None
    result, columns = record.result, recorded_columns(record.result.domain)
    kept = read_rows(record.rows, len(columns), len(result.classes))
    order = [int(index) for index in np.argsort(-kept.importance, kind="stable")[:SHOWN_COLUMNS]]
    texts = [_texts(columns[index], kept.rows[:, index]) for index in order]
    rows = [
        _Row(
            int(kept.asked_at[place]),
            str(kept.origin[place]),
            [text[place] for text in texts],
            answer_text(result, kept.answer[place]),
        )
        for place in range(len(kept.rows))
    ]
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(count=count)
    plot = both_widths(lambda: dependence_plot(kept, result, columns, axis_of))
    return Markup(
        environment.from_string(HTML).render(
            names=[columns[index].name for index in order],
            rows=rows,
            colours=colours,
            hidden=len(columns) - len(order),
            curves=plot and Markup(plot),
        )
    )


def _texts(column: Column, values: NDArray[np.uint8]) -> list[str]:
    """Values of a column, as they are written in its table."""
    decoded = decode_rows(torch.from_numpy(values.copy())[:, None, None, None], [column])[:, 0]
    if column.levels:
        return [column.levels[int(value)] for value in decoded]
    step = 1.0 if column.whole else column.step
    return [value_in_unit(float(value), step) for value in decoded]


def dependence_plot(
    kept: TableRows,
    result: Result,
    columns: Sequence[Column],
    axis_of: Callable[[Result, int], Axis],
) -> str | None:
    """Curves of the main columns as SVG, three in a row; None without any column."""
    curves, shown = kept.curves, len(kept.curves.column)
    if not shown:
        return None
    across = min(by_width(3), shown)
    with style("dependence"):
        drawn = figure(height=by_width(40, 80) + 235 * -(-shown // across))
        panels = drawn.subplots(-(-shown // across), across, squeeze=False).flat
        keys: list[Any] = []
        for place, axes in enumerate(panels):
            if place >= shown:
                axes.set_visible(False)
                continue
            column = columns[int(curves.column[place])]
            axis = axis_of(result, int(curves.output[place]))
            lines = (curves.student, curves.student_near, curves.ensemble_near)
            values = [axis.of(line[place].numpy()) for line in lines]
            keys = _panel(axes, column, curves.at[place].numpy(), values)
            axes.set_title(short(column.name, 34), color=SOFT)
            axes.set_ylabel(short(axis.label, 30))
        _equal_limits(list(drawn.axes)[:shown], curves.output.tolist())
        labels = ["student, partial dependence", "student, rows near", "ensemble, rows near"]
        drawn.legend(keys, labels, loc="outside lower center", ncols=by_width(3))
        return inline_svg(drawn, "dependence", "Student and ensemble by the main columns")


def _equal_limits(panels: Sequence[Axes], outputs: Sequence[int]) -> None:
    """One range of y for all panels of an output, so that the main column looks like it."""
    for output in set(outputs):
        alike = [axes for axes, own in zip(panels, outputs, strict=True) if own == output]
        limits = np.array([axes.get_ylim() for axes in alike])
        for axes in alike:
            axes.set_ylim(limits.min(), limits.max())


def _panel(
    axes: Axes, column: Column, at: NDArray[np.float64], values: Sequence[NDArray[np.float64]]
) -> list[Any]:
    """Draw one column; returns the keys for a legend."""
    there = ~np.isnan(at)
    # Levels stand one beside another, though some in between may be missing.
    xs = np.arange(int(there.sum())) if column.levels else at[there]
    line, near, taught = (value[there] for value in values)
    hollow: dict[str, Any] = {"ls": "", "mfc": "none"}
    dashes = ":" if column.levels else "-"
    keys = [
        *axes.plot(xs, line, color=ACCENT, marker=".", markersize=4, ls=dashes, zorder=2),
        *axes.plot(xs, near, color=SERIES[1], marker="o", markersize=6, zorder=4, **hollow),
        *axes.plot(xs, taught, color=INK, marker="s", markersize=7, alpha=0.7, zorder=3, **hollow),
    ]
    axes.margins(x=0.06, y=0.12)
    if column.levels:
        names = [short(column.levels[int(index)], 12) for index in at[there]]
        step = math.ceil(len(names) / _NAMED_LEVELS)
        axes.set_xticks(xs[::step], names[::step])
    else:
        axes.locator_params(axis="x", nbins=5)
    return keys
