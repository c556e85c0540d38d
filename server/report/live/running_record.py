"""The record of a run that goes on, from ``events.jsonl``: what the page shows before the end."""

import json
from pathlib import Path
from typing import Any

from fedkd.errors import DataError
from fedkd.server.report.main_scores import MAIN_SCORES
from fedkd.server.report.records.event_schema import (
    Event,
    Generated,
    HeldBack,
    Scored,
    Started,
    parse_event,
)
from fedkd.server.report.records.result_schema import Result, parse_result
from fedkd.server.report.records.run_folder import EVENTS, RESULT
from fedkd.server.report.records.run_record import RunRecord
from fedkd.server.report.run_progress import RunProgress, run_progress


def is_finished(folder: Path) -> bool:
    """Whether the run has left its result."""
    return (folder / RESULT).is_file()


def load_running(folder: Path) -> tuple[RunRecord, RunProgress] | None:
    """What is known of a run that goes on; None before its first question.

    The record is that of a finished run, with the scores of now in the place of the last.

    Raises:
        DataError: the events are malformed.
    """
    events = _whole_events(folder / EVENTS)
    started = next((event for event in events if isinstance(event, Started)), None)
    if started is None:
        return None
    progress = run_progress(events, started.result.get("config", {}))
    result = _result_so_far(started.result, events, progress)
    return RunRecord(name=folder.resolve().name, result=result, events=events), progress


def _whole_events(file: Path) -> tuple[Event, ...]:
    """All events; a last line without its end is still being written."""
    lines = file.read_bytes().split(b"\n")[:-1] if file.is_file() else []
    try:
        return tuple(
            parse_event(json.loads(line), f"{file} line {number}")
            for number, line in enumerate(lines, start=1)
        )
    except ValueError as error:
        raise DataError(f"{file} holds a line that is not JSON: {error}") from None


def _result_so_far(
    begun: dict[str, Any], events: tuple[Event, ...], progress: RunProgress
) -> Result:
    """The result at the start with the student's latest scores, counts and seconds."""
    scores: dict[str, Any] = {}
    generated = 0
    for event in events:
        match event:
            case Scored():
                scores |= {each.field: each.of(event) for each in MAIN_SCORES.values()}
            case HeldBack():
                facts = event.model_dump(exclude={"kind", "step", "asked", "time", "done"})
                scores["held_back"] = facts
            case Generated():
                generated = event.step
            case _:
                pass
    teachers = [{**each, "samples_asked": progress.asked} for each in begun.get("teachers", ())]
    return parse_result(
        {
            **begun,
            "student": {**begun.get("student", {}), **scores},
            "teachers": teachers,
            "student_steps": progress.step,
            "generator_steps": generated,
            "seconds": round(progress.seconds, 3),
        },
        EVENTS,
    )
