"""Who took part in a run, and when: its own section of the page. Knows no engine.

An institution that is not named here was there from the first question to the last.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from fedkd.server.report.result_records import Asked, Back, Event, Joined, Lost, Struck

HTML = """\
{% if resumed %}
<p>The run was cut short and taken up again
<b>{{ "once" if resumed == 1 else "%d times" % resumed }}</b>; nothing that had been answered was
asked again.</p>
{% endif %}
{% if members %}
<h3>Who came and went</h3>
<div class="table"><table class="plain">
<thead><tr><th>Institution</th><th>What happened, after so many questions</th></tr></thead>
<tbody>
{% for name, member in members.items() %}
<tr><td class="name">{{ name }}</td><td class="wide">
{% for text in member.told %}
<span{% if member.struck %} class="none"{% endif %}>{{ text }}</span>{{ "; " if not loop.last }}
{% endfor %}
</td></tr>
{% endfor %}
</tbody></table></div>
{% endif %}
"""


@dataclass
class Member:
    """What the record says of one institution's coming and going."""

    joined: int | None = None
    """Questions asked before it came; None where it was there from the start."""
    lost: list[tuple[int, str]] = field(default_factory=list)
    """Each time: questions asked before, and why."""
    back: list[int] = field(default_factory=list)
    struck: tuple[int, str] | None = None

    @property
    def told(self) -> list[str]:
        """In sentences, in the order in which they happened, however often."""
        said = [] if self.joined is None else [f"joined after {self.joined:,}"]
        if self.lost:
            (first, _), (last, reason) = self.lost[0], self.lost[-1]
            if len(self.lost) == 1:
                said.append(f"lost after {last:,}: {reason}")
            else:
                often = f"lost {len(self.lost):,} times, from {first:,} to {last:,}"
                said.append(f"{often}; the last time: {reason}")
        if self.back:
            often = "back" if len(self.back) == 1 else f"back {len(self.back):,} times, the last"
            said.append(f"{often} after {self.back[-1]:,}")
        if self.struck is not None:
            said.append(f"struck off after {self.struck[0]:,}: {self.struck[1]}")
        return said


def members(events: Sequence[Event]) -> dict[str, Member]:
    """Everybody of whom the record tells more than answers, in the order of the first event."""
    found: dict[str, Member] = {}
    asked = 0
    for event in events:
        match event:
            case Asked():
                asked = event.asked
            case Joined():
                found.setdefault(event.name, Member()).joined = asked
            case Lost():
                found.setdefault(event.name, Member()).lost.append((asked, event.reason))
            case Back():
                found.setdefault(event.name, Member()).back.append(asked)
            case Struck():
                found.setdefault(event.name, Member()).struck = (asked, event.reason)
    return found


def membership(events: Sequence[Event], resumed: int) -> Markup:
    """The section; nothing where everybody was there from beginning to end.

    Args:
        events: of the run, in order.
        resumed: times that it was cut short and taken up again.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    shown = environment.from_string(HTML).render(members=members(events), resumed=resumed)
    return Markup(shown)
