"""Progress of a run from its events: questions, steps, seconds, and the estimated time left."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fedkd.server.report.records.event_schema import Asked, Event, Trained

LONGEST_PAUSE = 600.0
"""Seconds between two events that count at most: a run may have been interrupted in between."""
_RECENT = 0.75
"""The time left is estimated from the steps after this share of those that are taken."""


@dataclass(frozen=True)
class RunProgress:
    """How far a run is that goes on."""

    asked: int
    """Samples asked of each institution."""
    budget: int
    """How many may be asked in all."""
    step: int
    """Steps that the student has taken."""
    steps: int
    """How many it takes in all."""
    seconds: float
    """Since the first event; interruptions count as `LONGEST_PAUSE` at most."""
    seconds_left: float | None
    """Estimated from the pace of the latest steps; None before there are two records of steps."""
    question_seconds_left: float | None
    """Likewise until the last question; all that is known of a student that learns afterwards."""
    updated: float | None
    """Seconds since 1970 at the last event; None in files of earlier releases."""

    @property
    def asked_share(self) -> float:
        """In [0, 1]."""
        return _share(self.asked, self.budget)

    @property
    def step_share(self) -> float:
        """In [0, 1]."""
        return _share(self.step, self.steps)


def run_progress(events: Sequence[Event], config: dict[str, Any]) -> RunProgress:
    """Progress of the run that recorded ``events``.

    Args:
        events: in order.
        config: of its result; budgets that it lacks count as 0, that is as unknown.
    """
    asked = [event.asked for event in events if isinstance(event, Asked)]
    clock, questions, seconds, before = [], [], 0.0, None
    for event in events:
        if event.time is not None:
            # A clock may have been set back.
            seconds += 0.0 if before is None else min(max(0.0, event.time - before), LONGEST_PAUSE)
            before = event.time
        if isinstance(event, Trained):
            clock.append((seconds, event.step))
        if isinstance(event, Asked):
            questions.append((seconds, event.asked))
    step = clock[-1][1] if clock else 0
    steps = int(config.get("student", {}).get("steps", 0))
    budget = int(config.get("questions", {}).get("budget", 0))
    return RunProgress(
        asked=asked[-1] if asked else 0,
        budget=budget,
        step=step,
        steps=steps,
        seconds=seconds,
        seconds_left=None if before is None else _seconds_left(clock, steps),
        question_seconds_left=None if before is None else _seconds_left(questions, budget),
        updated=before,
    )


def _seconds_left(clock: Sequence[tuple[float, int]], total: int) -> float | None:
    """At the latest pace; ``clock`` has seconds, and the steps or samples that are done by then."""
    if len(clock) < 2 or total <= 0:
        return None
    end, done = clock[-1]
    recent = [point for point in clock[:-1] if point[1] >= _RECENT * done] or [clock[-2]]
    start, first = recent[0]
    if done <= first:
        return None
    return max(0, total - done) * (end - start) / (done - first)


def _share(done: int, total: int) -> float:
    return min(1.0, done / total) if total > 0 else 0.0
