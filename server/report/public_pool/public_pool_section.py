"""The page's part on the choice among public samples: what share of it is of each data set."""

from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.ticker import PercentFormatter

from fedkd.server.report.formatting import count, percent
from fedkd.server.report.plot_style import (
    SERIES,
    both_widths,
    figure,
    inline_svg,
    legend_of_lines,
    style,
    thin,
    thousands,
)
from fedkd.server.report.records.event_schema import Asked, Event
from fedkd.server.report.records.result_schema import Result

HTML = """\
<h3>Which public samples were chosen</h3>
<p>The coordinator had {{ pool | count }} samples of {{ rows | length }} data sets, and asked about
{{ asked | count }} of them. Nothing is chosen by the data set that a sample is of; that is known
for this record alone.</p>
<figure>{{ plot }}
<figcaption>Share of each data set among all public samples asked about so far. Dashed: its share
of all that the coordinator had, which a choice at random follows.</figcaption></figure>
<div class="table"><table class="plain">
<thead><tr><th>Data set</th><th class="n">Had</th><th class="n">Asked about</th>
<th class="n">Share of what it had</th><th class="n">Share of what was asked</th></tr></thead>
<tbody>
{% for row in rows %}
<tr><td class="name">{{ row.name }}</td><td class="n">{{ row.had | count }}</td>
<td class="n">{{ row.asked | count }}</td><td class="n">{{ (row.had / pool) | percent }}</td>
<td class="n">{{ (row.asked / asked) | percent }}</td></tr>
{% endfor %}
</tbody></table></div>
"""


@dataclass(frozen=True)
class DataSetChoice:
    """One data set of public samples."""

    name: str
    had: int
    """Samples of it that the coordinator had, each counted once."""
    asked: int
    """How many of them institutions were asked about."""


def choices(events: Sequence[Event]) -> list[DataSetChoice]:
    """What was chosen of each data set; empty where there are fewer than two to choose among."""
    counted = [e for e in events if isinstance(e, Asked) and e.public and e.public_pool]
    if not counted:
        return []
    had, asked = counted[-1].public_pool or {}, counted[-1].public or {}
    return [DataSetChoice(name, number, asked.get(name, 0)) for name, number in had.items()]


def has_public_samples(result: Result) -> bool:
    """Whether the coordinator brought samples of its own, by the run's configuration."""
    return bool((result.config.get("images") or {}).get("public"))


def public_pool_section(events: Sequence[Event]) -> Markup:
    """Text, plot and table as HTML; empty of a run that had no pool of several data sets."""
    rows = choices(events)
    asked = sum(row.asked for row in rows)
    if not asked:
        return Markup("")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(percent=percent, count=count)
    text = environment.from_string(HTML).render(
        rows=rows,
        pool=sum(row.had for row in rows),
        asked=asked,
        plot=Markup(both_widths(lambda: _plot(rows, events))),
    )
    return Markup(text)


def _plot(rows: Sequence[DataSetChoice], events: Sequence[Event]) -> str:
    """The share of each data set over the samples asked."""
    steps = thin([(e.asked, e.public) for e in events if isinstance(e, Asked) and e.public])
    pool = sum(row.had for row in rows)
    with style("public_pool"):
        drawn = figure(height=260)
        axes = drawn.subplots()
        keys = []
        for row, colour in zip(rows, SERIES * len(rows), strict=False):
            shares = [chosen.get(row.name, 0) / sum(chosen.values()) for _, chosen in steps]
            keys += axes.plot([asked for asked, _ in steps], shares, color=colour)
            axes.axhline(row.had / pool, color=colour, linestyle="--", lw=1)
        axes.set_xlabel("samples asked of each teacher")
        thousands(axes)
        axes.set_ylim(-0.02, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        legend_of_lines(drawn, keys, [row.name for row in rows])
        return inline_svg(drawn, "public_pool", "Share of each data set among what was asked")
