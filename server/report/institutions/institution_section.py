"""The page's section on each institution, and the privacy guarantees of all of them combined."""

import math
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from fedkd.server.report.formatting import count, epsilon_delta
from fedkd.server.report.records.event_schema import (
    Asked,
    Banned,
    Event,
    Excluded,
    Joined,
    Lost,
    Returned,
)
from fedkd.server.report.records.result_schema import Result, TeacherRecord

TRAINING_MECHANISM = "DP-SGD"
"""The mechanism by which everything computed from a teacher is covered."""
_ADD_OR_REMOVE = "add or remove"
_NAMED_CLASSES = 24
_SIGNALS = {
    "logits": "class scores (logits)",
    "bn_gap": "distance of a batch to its batch-norm statistics (bn_gap)",
    "features": "what enters its last layer (features)",
    "relations": "how alike it finds every two samples (relations)",
    "activation": "how large a batch's features are on average (activation)",
}
_ABSENCES = {
    "lost": "did not answer",
    "banned": "was banned",
    "excluded": "was excluded, and its answers fused out,",
}


@dataclass(frozen=True)
class InstitutionSection:
    """The values shown of one institution."""

    number: int
    """From 1, in the order of the result."""
    teacher: TeacherRecord
    summary: str
    asked_signals: str
    """The signals that the method asked for; empty if not recorded."""
    signals: str
    """The signals that its policy releases."""
    history: Sequence[str]
    """When it joined, dropped out and returned; empty: it took part throughout."""
    reasons: Sequence[str]
    """Why it did not answer, with the number of times."""
    classes: str
    factor: str
    """e to its epsilon, formatted; empty without a guarantee."""

    @property
    def trained_privately(self) -> bool:
        """Whether its guarantee covers everything that is computed from its teacher."""
        mechanism = self.teacher.guarantee.mechanism if self.teacher.guarantee else None
        return (mechanism or self.teacher.mechanism or "").startswith(TRAINING_MECHANISM)


@dataclass(frozen=True)
class CombinedGuarantee:
    """The combined guarantee of all institutions, by parallel composition and summed."""

    unit: str
    parallel: str
    summed: str


def institution_sections(result: Result, events: Sequence[Event]) -> list[InstitutionSection]:
    """One section for each institution, in the order of the result."""
    asked = _signal_names(result.signals_asked) if result.signals_asked else ""
    changes = _participation_events(events)
    return [
        InstitutionSection(
            number,
            teacher,
            f"{count(teacher.samples_asked)} samples asked",
            asked,
            _signal_names(teacher.signals),
            [words for name, words, _ in changes if name == teacher.name],
            _reasons([reason for name, _, reason in changes if name == teacher.name and reason]),
            _classes(teacher),
            factor(teacher.epsilon) if teacher.epsilon is not None else "",
        )
        for number, teacher in enumerate(result.teachers, start=1)
    ]


def combined_guarantee(teachers: Sequence[TeacherRecord]) -> CombinedGuarantee | None:
    """Parallel composition of all guarantees, for units that lie at one institution only.

    As `fedkd.privacy.accounting.parallel_composition` has it, with what else that asks for.

    Returns:
        None if there is one institution only, if one of them has no guarantee, or if they do not
        all define neighbours by adding or removing one unit of the same kind.
    """
    guarantees = _guarantees(teachers)
    said = {(t.guarantee.unit, t.guarantee.adjacency) if t.guarantee else None for t in teachers}
    if not guarantees or len(said) != 1:
        return None
    unit, adjacency = said.pop() or (None, None)
    if unit is None or adjacency != _ADD_OR_REMOVE:
        return None
    worst = epsilon_delta(max(e for e, _ in guarantees), max(d for _, d in guarantees))
    return CombinedGuarantee(unit.removeprefix("one "), worst, _sum(guarantees))


def summed_guarantee(teachers: Sequence[TeacherRecord]) -> str:
    """Sequential composition of all guarantees, which always holds; empty if there is none."""
    guarantees = _guarantees(teachers)
    return _sum(guarantees) if guarantees else ""


def factor(epsilon: float) -> str:
    """E to ``epsilon``, in a few digits."""
    if epsilon > 30:
        return f"e^{epsilon:.4g}, beyond any use"
    value = math.exp(epsilon)
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _guarantees(teachers: Sequence[TeacherRecord]) -> list[tuple[float, float]]:
    """All guarantees; none if an institution has no guarantee, or there is one institution only."""
    known = [
        (t.epsilon, t.delta) for t in teachers if t.epsilon is not None and t.delta is not None
    ]
    return known if len(known) == len(teachers) > 1 else []


def _sum(guarantees: Sequence[tuple[float, float]]) -> str:
    # fsum raises where a sum overflows.
    finite = max(e for e, _ in guarantees) <= sys.float_info.max / len(guarantees)
    epsilon = math.fsum(e for e, _ in guarantees) if finite else math.inf
    return epsilon_delta(epsilon, math.fsum(d for _, d in guarantees))


def _signal_names(signals: Sequence[str]) -> str:
    return ", ".join(_SIGNALS.get(signal, signal) for signal in signals) or "not recorded"


def _participation_events(events: Sequence[Event]) -> list[tuple[str, str, str]]:
    """Changes of participation: name, text, and the reason if there is one."""
    asked, changes = 0, []
    for event in events:
        if isinstance(event, Asked):
            asked = event.asked
        elif isinstance(event, Lost | Banned | Excluded):
            what = _ABSENCES[event.kind]
            changes.append((event.name, f"{what} after sample {count(asked)}", event.reason))
        elif isinstance(event, Returned | Joined):
            what = "answered again" if isinstance(event, Returned) else "joined"
            changes.append((event.name, f"{what} after sample {count(asked)}", ""))
    return changes


def _reasons(reasons: Sequence[str]) -> list[str]:
    return [
        reason if times == 1 else f"{reason} ({times} times)"
        for reason, times in Counter(reasons).items()
    ]


def _classes(teacher: TeacherRecord) -> str:
    names = teacher.classes
    if not names:
        return "by their numbers"
    shown = ", ".join(_output(teacher, name) for name in names[:_NAMED_CLASSES])
    more = len(names) - _NAMED_CLASSES
    return f"{len(names)}: {shown}" + (f" and {more} more" if more > 0 else "")


def _output(teacher: TeacherRecord, name: str) -> str:
    """A class, or a number with the error that its owner tells of it."""
    error = teacher.number_errors.get(name)
    return name if error is None else f"{name} (its owner tells an error of {error:.4g})"
