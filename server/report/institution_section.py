"""What the page says of one institution, and of all their promises together. It knows no markup.

Everything here is the coordinator's view: what it asked, what it was told, what it was promised.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from fedkd.server.report.formatting import count, pair
from fedkd.server.report.result_records import (
    Asked,
    Back,
    Event,
    Joined,
    Lost,
    Result,
    Struck,
    TeacherRecord,
)

TRAINED_PRIVATELY = "DP-SGD"
"""The mechanism that covers whatever is computed from a teacher."""
_ADD_OR_REMOVE = "add or remove"
_NAMED_CLASSES = 24
_SIGNALS = {
    "logits": "class scores (logits)",
    "bn_gap": "distance of a batch to its batch-norm statistics (bn_gap)",
    "features": "what enters its last layer (features)",
}


@dataclass(frozen=True)
class Sheet:
    """One institution."""

    number: int
    """From 1, in the order of the result."""
    teacher: TeacherRecord
    summary: str
    asked_signals: str
    """What the method asked for; empty where it was not recorded."""
    signals: str
    """What its policy releases."""
    history: Sequence[str]
    """When it came, went and came back; empty: it was there throughout."""
    reasons: Sequence[str]
    """Why it did not answer, each with how often it was noted."""
    classes: str
    factor: str
    """e to its epsilon, as people read it; empty where it promises nothing."""

    @property
    def trained_privately(self) -> bool:
        """Whether its promise covers everything that is computed from its teacher."""
        said = self.teacher.guarantee.mechanism if self.teacher.guarantee else None
        return (said or self.teacher.mechanism or "").startswith(TRAINED_PRIVATELY)


@dataclass(frozen=True)
class Together:
    """The promises of institutions that hold different data, taken together."""

    unit: str
    parallel: str
    summed: str


def sheets(result: Result, events: Sequence[Event]) -> list[Sheet]:
    """A sheet for each institution, in the order of the result."""
    asked = _words(result.signals_asked) if result.signals_asked else ""
    moments = _moments(events)
    return [
        Sheet(
            number,
            teacher,
            f"{count(teacher.samples_asked)} samples asked",
            asked,
            _words(teacher.signals),
            [words for name, words, _ in moments if name == teacher.name],
            _reasons([reason for name, _, reason in moments if name == teacher.name and reason]),
            _classes(teacher),
            factor(teacher.epsilon) if teacher.epsilon is not None else "",
        )
        for number, teacher in enumerate(result.teachers, start=1)
    ]


def together(teachers: Sequence[TeacherRecord]) -> Together | None:
    """What all promises come to where no unit lies at two institutions.

    As `fedkd.privacy.accounting.in_parallel` has it, with what else that asks for.

    Returns:
        None where somebody promises nothing, alone, or where institutions do not all say that
        neighbours differ by adding or removing one and the same kind of unit.
    """
    promises = _promises(teachers)
    said = {(t.guarantee.unit, t.guarantee.adjacency) if t.guarantee else None for t in teachers}
    if not promises or len(said) != 1:
        return None
    unit, adjacency = said.pop() or (None, None)
    if unit is None or adjacency != _ADD_OR_REMOVE:
        return None
    worst = pair(max(e for e, _ in promises), max(d for _, d in promises))
    return Together(unit.removeprefix("one "), worst, _sum(promises))


def overlap(teachers: Sequence[TeacherRecord]) -> str:
    """The sum of all promises, which holds wherever a unit lies; empty where there is none."""
    promises = _promises(teachers)
    return _sum(promises) if promises else ""


def factor(epsilon: float) -> str:
    """By how much a conclusion may become likelier: e to ``epsilon``, in a few digits."""
    if epsilon > 30:
        return f"e^{epsilon:.4g}, beyond any use"
    value = math.exp(epsilon)
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _promises(teachers: Sequence[TeacherRecord]) -> list[tuple[float, float]]:
    """Everybody's; none where somebody promises nothing, or there is nobody to compose with."""
    known = [
        (t.epsilon, t.delta) for t in teachers if t.epsilon is not None and t.delta is not None
    ]
    return known if len(known) == len(teachers) > 1 else []


def _sum(promises: Sequence[tuple[float, float]]) -> str:
    return pair(math.fsum(e for e, _ in promises), math.fsum(d for _, d in promises))


def _words(signals: Sequence[str]) -> str:
    return ", ".join(_SIGNALS.get(signal, signal) for signal in signals) or "not recorded"


def _moments(events: Sequence[Event]) -> list[tuple[str, str, str]]:
    """Who came or went: name, what happened in words, and the reason where there is one."""
    asked, told = 0, []
    for event in events:
        if isinstance(event, Asked):
            asked = event.asked
        elif isinstance(event, Lost | Struck):
            what = "did not answer" if isinstance(event, Lost) else "was struck off"
            told.append((event.name, f"{what} after sample {count(asked)}", event.reason))
        elif isinstance(event, Back | Joined):
            what = "answered again" if isinstance(event, Back) else "joined"
            told.append((event.name, f"{what} after sample {count(asked)}", ""))
    return told


def _reasons(reasons: Sequence[str]) -> list[str]:
    return [
        reason if times == 1 else f"{reason} ({times} times)"
        for reason, times in Counter(reasons).items()
    ]


def _classes(teacher: TeacherRecord) -> str:
    names = teacher.classes
    if not names:
        return "by their numbers"
    shown = ", ".join(names[:_NAMED_CLASSES])
    more = len(names) - _NAMED_CLASSES
    return f"{len(names)}: {shown}" + (f" and {more} more" if more > 0 else "")
