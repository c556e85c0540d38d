"""Summaries for the page of a run with many institutions: ranges of figures, shortened lists."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fedkd.server.report.formatting import count, seconds, size
from fedkd.server.report.main_scores import ACCURACY, MainScore
from fedkd.server.report.records.result_schema import TeacherRecord

MAX_SHOWN = 60
"""Institutions that are shown one by one: the first of the result."""


@dataclass(frozen=True)
class Range:
    """Minimum, median and maximum of one figure over all institutions that have it, as text."""

    label: str
    least: str
    median: str
    most: str


def ranges(teachers: Sequence[TeacherRecord], score: MainScore = ACCURACY) -> list[Range]:
    """The ranges of all figures; none if each institution is shown."""
    if len(teachers) <= MAX_SHOWN:
        return []
    found = [
        _range(f"Own {score.name}", [score.of(t) for t in teachers], score.text),
        _range("Samples asked", [t.samples_asked for t in teachers], _whole),
        _range("Pulled back", [t.samples_pulled_back for t in teachers], _whole),
        _range("Sent to it", [t.bytes_sent for t in teachers], size),
        _range("Received", [t.bytes_received for t in teachers], size),
        _range("Refusals", [t.refusals for t in teachers], _whole),
        _range("Answer time, median", [t.answer_seconds_median for t in teachers], seconds),
        _range("Answer time of nine in ten", [t.answer_seconds_p90 for t in teachers], seconds),
        _range("Guaranteed ε", [t.epsilon for t in teachers], "{:.4g}".format),
    ]
    return [each for each in found if each is not None]


def abbreviated_names(names: Sequence[str]) -> str:
    """``a, b and 998 others``: as many names as are shown, and how many more there are."""
    more = len(names) - MAX_SHOWN
    return ", ".join(names[:MAX_SHOWN]) + (f" and {count(more)} others" if more > 0 else "")


def _range(
    label: str, values: Sequence[float | None], words: Callable[[float], str]
) -> Range | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    return Range(label, *map(words, (min(known), statistics.median(known), max(known))))


def _whole(number: float) -> str:
    return count(round(number))
