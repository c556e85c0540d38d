"""The page's table of participation: who joined, dropped out, returned, or was banned.

An institution that is not named there took part from the first question to the last.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from fedkd.server.report.records.event_schema import (
    Asked,
    Banned,
    Event,
    Excluded,
    Joined,
    Lost,
    Returned,
)

HTML = """\
{% if resumed %}
<p>The run was interrupted and resumed
<b>{{ "once" if resumed == 1 else "%d times" % resumed }}</b>; nothing that had been answered was
asked again.</p>
{% endif %}
{% if attendance %}
<h3>Who came and went</h3>
<div class="table"><table class="plain">
<thead><tr><th>Institution</th><th>What happened, after so many questions</th></tr></thead>
<tbody>
{% for name, one in attendance.items() %}
<tr><td class="name">{{ name }}</td><td class="wide">
{% for text in one.sentences %}
<span{% if one.refused %} class="none"{% endif %}>{{ text }}</span>{{ "; " if not loop.last }}
{% endfor %}
</td></tr>
{% endfor %}
</tbody></table></div>
{% endif %}
"""


@dataclass
class Attendance:
    """When one institution joined, dropped out and returned."""

    joined: int | None = None
    """Samples asked before it joined; None if it took part from the start."""
    lost: list[tuple[int, str]] = field(default_factory=list)
    """Each time: samples asked before, and the reason."""
    returned: list[int] = field(default_factory=list)
    banned: tuple[int, str] | None = None
    excluded: tuple[int, str] | None = None

    @property
    def refused(self) -> bool:
        """Whether it may not return."""
        return self.banned is not None or self.excluded is not None

    @property
    def sentences(self) -> list[str]:
        """A summary in words, in order of time."""
        sentences = [] if self.joined is None else [f"joined after {self.joined:,}"]
        if self.lost:
            (first, _), (last, reason) = self.lost[0], self.lost[-1]
            if len(self.lost) == 1:
                sentences.append(f"lost after {last:,}: {reason}")
            else:
                often = f"lost {len(self.lost):,} times, from {first:,} to {last:,}"
                sentences.append(f"{often}; the last time: {reason}")
        if self.returned:
            times = len(self.returned)
            often = "returned" if times == 1 else f"returned {times:,} times, the last"
            sentences.append(f"{often} after {self.returned[-1]:,}")
        if self.banned is not None:
            sentences.append(f"banned after {self.banned[0]:,}: {self.banned[1]}")
        if self.excluded is not None:
            asked, reason = self.excluded
            sentences.append(f"excluded after {asked:,}, its answers fused out: {reason}")
        return sentences


def attendance(events: Sequence[Event]) -> dict[str, Attendance]:
    """The institutions with such events, in the order of their first event."""
    found: dict[str, Attendance] = {}
    asked = 0
    for event in events:
        match event:
            case Asked():
                asked = event.asked
            case Joined():
                found.setdefault(event.name, Attendance()).joined = asked
            case Lost():
                found.setdefault(event.name, Attendance()).lost.append((asked, event.reason))
            case Returned():
                found.setdefault(event.name, Attendance()).returned.append(asked)
            case Banned():
                found.setdefault(event.name, Attendance()).banned = (asked, event.reason)
            case Excluded():
                found.setdefault(event.name, Attendance()).excluded = (asked, event.reason)
    return found


def participation_section(events: Sequence[Event], resumed: int) -> Markup:
    """The table as HTML; empty if all institutions took part from beginning to end.

    Args:
        events: of the run, in order.
        resumed: number of times that the run was resumed.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    shown = environment.from_string(HTML).render(attendance=attendance(events), resumed=resumed)
    return Markup(shown)
