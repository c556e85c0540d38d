"""The page's record of reliability: agreement and weight of every institution over time, alarms."""

from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from fedkd.server.report.institutions.many_institutions import MAX_SHOWN, abbreviated_names
from fedkd.server.report.plot_style import (
    FAINT,
    SERIES,
    both_widths,
    by_width,
    figure,
    inline_svg,
    legend_of_lines,
    short,
    style,
    thousands,
)
from fedkd.server.report.records.event_schema import Event, Reliability

HTML = """\
<h3>Reliability, estimated from the answers</h3>
{% for alarm in alarms %}
<p class="none">{{ alarm }}</p>
{% endfor %}
{% if not alarms %}
<p>No institution disagreed with the others so much that its answers were left out.</p>
{% endif %}
<figure>{{ plot }}
<figcaption>Agreement: the correlation of an institution's answers with the fused answers of the
others, in the classes that it claims and others know; random and constant answers have 0. Weight:
the share of its classes that is fused.
{%- if silent %} {{ silent }} had too little in common with the others to be judged.{% endif %}

</figcaption></figure>
"""
_NAMED = 8
"""Most institutions that have a colour of their own."""


@dataclass(frozen=True)
class _Span:
    """A time in which answers of an institution were left out."""

    name: str
    classes: tuple[str, ...]
    since: int
    until: int | None
    """None: to the end."""
    whole: bool

    def sentence(self) -> str:
        """In words."""
        what = (
            "all its answers were left out"
            if self.whole
            else f"its answers on {abbreviated_names(self.classes)} were left out"
        )
        end = "" if self.until is None else f" until {self.until:,}"
        return f"{self.name} disagrees with the others: {what} since sample {self.since:,}{end}."


def reliability_section(events: Sequence[Event]) -> Markup:
    """Plot and alarms as HTML; empty where no estimate was made."""
    estimates = [event for event in events if isinstance(event, Reliability)]
    if not estimates:
        return Markup("")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    last = estimates[-1].agreement
    silent = [name for name, value in last.items() if value is None]
    spans = [span.sentence() for span in _spans(estimates)]
    if len(spans) > MAX_SHOWN:
        spans = [*spans[:MAX_SHOWN], f"And {len(spans) - MAX_SHOWN:,} more, see events.jsonl."]
    text = environment.from_string(HTML).render(
        alarms=spans,
        plot=Markup(both_widths(lambda: _plot(estimates))),
        silent=abbreviated_names(silent) if silent else "",
    )
    return Markup(text)


def _spans(estimates: Sequence[Reliability]) -> list[_Span]:
    """Times in which the same classes were left out, those that last first."""
    open_: dict[str, tuple[tuple[str, ...], int, bool]] = {}
    closed: list[_Span] = []
    for estimate in estimates:
        for name in sorted(open_.keys() | estimate.left_out.keys()):
            classes = tuple(estimate.left_out.get(name, ()))
            before = open_.get(name)
            if before is not None and before[0] != classes:
                closed.append(_Span(name, before[0], before[1], estimate.samples, before[2]))
                del open_[name]
            if classes and name not in open_:
                whole = estimate.weight.get(name, 1.0) == 0.0
                open_[name] = (classes, estimate.samples, whole)
    lasting = [_Span(name, c, since, None, whole) for name, (c, since, whole) in open_.items()]
    return sorted(lasting, key=lambda s: (not s.whole, s.since, s.name)) + closed[::-1]


def _plot(estimates: Sequence[Reliability]) -> str:
    """Agreement and weight over the samples asked, one line for each institution."""
    names = list(dict.fromkeys(name for e in estimates for name in e.agreement))
    last = {name: (e.weight[name], e.agreement[name]) for e in estimates for name in e.agreement}
    ranked = sorted(names, key=lambda n: (last[n][0], last[n][1] if last[n][1] is not None else 2))
    coloured, others = ranked[:_NAMED], ranked[_NAMED : _NAMED + MAX_SHOWN]
    across = by_width(2)
    with style("reliability"):
        drawn = figure(height=260 if across == 2 else 470 + 20 * -(-len(coloured) // 2))
        panels = drawn.subplots(2 // across, across)
        for axes, title, low in zip(panels, ("Agreement", "Weight"), (-1.05, -0.05), strict=True):
            axes.set_title(title)
            axes.set_xlabel("samples asked of each teacher")
            axes.set_ylim(low, 1.05)
            thousands(axes)
        lines = {}
        for name in [*others, *coloured]:
            own = name in coloured
            look = {
                "color": SERIES[coloured.index(name) % len(SERIES)] if own else FAINT,
                "lw": 1.5 if own else 0.8,
                "marker": "o",
                "markersize": 2.5 if own else 1.0,
            }
            there = [e for e in estimates if name in e.agreement]
            judged = [
                (e.samples, e.agreement[name]) for e in there if e.agreement[name] is not None
            ]
            panels[0].plot([x for x, _ in judged], [y for _, y in judged], **look)
            xs, ys = [e.samples for e in there], [e.weight[name] for e in there]
            (lines[name],) = panels[1].plot(xs, ys, **look)
        keys = [lines[name] for name in coloured]
        legend_of_lines(drawn, keys, [short(name) for name in coloured])
        return inline_svg(drawn, "reliability", "Agreement and weight of institutions over time")
