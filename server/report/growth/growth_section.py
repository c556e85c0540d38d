"""The page's part on growth: which classes are old and new, who left, and what became of both."""

from collections.abc import Sequence

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.ticker import PercentFormatter

from fedkd.server.report.formatting import count, percent, plural
from fedkd.server.report.institutions.many_institutions import abbreviated_names
from fedkd.server.report.plot_style import (
    FAINT,
    INK,
    SERIES,
    both_widths,
    figure,
    inline_svg,
    legend_of_lines,
    style,
    thin,
)
from fedkd.server.report.records.event_schema import Event, Scored
from fedkd.server.report.records.result_parts import GrowthRecord

HTML = """\
<h3>Growth: what was learned before, and what is new</h3>
<p>The student goes on with that of the run <b>{{ growth.run }}</b>
{%- if growth.weights_copied %}, whose weights it began with{% else %}; its own network is another,
so it began with fresh weights{% endif %}. That one, frozen, answered for {{ old }}; it lies at the
coordinator, so its answers cost no institution anything. The institutions of this run brought
{{ new }}.</p>
{% if plot %}
<figure>{{ plot }}
<figcaption>Accuracy on test samples of old and of new classes, among all classes. Grey: the earlier
student on the old ones, where growth began{{ begun }}.</figcaption></figure>
{% endif %}
{% if growth.old_accuracy is not none or growth.new_accuracy is not none %}
<div class="table"><table class="plain measures">
<tr><th>Old classes</th><td class="n">{{ growth.old_accuracy | percent }}</td>
<td>the earlier student had {{ growth.earlier_accuracy | percent }}</td></tr>
<tr><th>New classes</th><td class="n">{{ growth.new_accuracy | percent }}</td>
<td>among all classes, too</td></tr>
</table></div>
{% endif %}
{% if growth.left %}
<p class="small">{{ gone }} of the earlier run left, and {{ be }} asked about
{{ asked }} in this one: {{ names }}.</p>
{% endif %}
"""


def growth_section(growth: GrowthRecord | None, events: Sequence[Event]) -> Markup:
    """Text, plot and table as HTML; empty of a run that began anew."""
    if growth is None:
        return Markup("")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = percent
    scores = [event for event in events if isinstance(event, Scored)]
    drawn = both_widths(lambda: _plot(growth, scores))
    asked = sum(each.samples_asked for each in growth.left)
    earlier = growth.earlier_accuracy
    text = environment.from_string(HTML).render(
        growth=growth,
        old=_classes(growth.classes),
        new=_classes(growth.new_classes),
        plot=None if drawn is None else Markup(drawn),
        begun="" if earlier is None else f" ({percent(earlier)})",
        gone=plural(len(growth.left), "institution").capitalize(),
        be="was" if len(growth.left) == 1 else "were",
        asked="nothing" if not asked else f"{count(asked)} samples",
        names=abbreviated_names([each.name for each in growth.left]),
    )
    return Markup(text)


def _classes(names: Sequence[str]) -> str:
    """In words: how many, and which."""
    noun = "class" if len(names) == 1 else "classes"
    return f"{count(len(names))} {noun} ({abbreviated_names(names)})"


def _plot(growth: GrowthRecord, scores: Sequence[Scored]) -> str | None:
    """Accuracy on old and new classes over the student's steps; None without test data."""
    lines = {
        "old classes": [(e.step, e.old_accuracy) for e in scores if e.old_accuracy is not None],
        "new classes": [(e.step, e.new_accuracy) for e in scores if e.new_accuracy is not None],
    }
    if not all(len(points) > 1 for points in lines.values()):
        return None
    with style("growth"):
        drawn = figure(height=300)
        axes = drawn.subplots()
        keys = []
        for (name, points), colour in zip(lines.items(), (INK, SERIES[0]), strict=False):
            xs, ys = zip(*thin(points), strict=True)
            keys += axes.plot(xs, ys, color=colour, marker="o", markersize=2.5, label=name)
        labels = list(lines)
        if growth.earlier_accuracy is not None:
            keys.append(axes.axhline(growth.earlier_accuracy, color=FAINT, lw=1.5, zorder=1))
            labels.append("earlier student, old classes")
        axes.set_xlabel("student steps since growth began")
        axes.set_ylim(-0.02, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        legend_of_lines(drawn, keys, labels)
        return inline_svg(drawn, "growth", "Accuracy on old and new classes over time")
