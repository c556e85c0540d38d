"""The events of a run without their times, to compare runs that must be equal."""

import json
from pathlib import Path
from typing import Any

from fedkd.server.report.records.run_folder import EVENTS


def loop_events(folder: Path) -> list[dict[str, Any]]:
    """What the loop recorded in the run's folder: equal for runs with equal replies and seed.

    Left out are the times, and the event "started", which names engine and versions.
    """
    file = folder / EVENTS
    lines = file.read_bytes().splitlines() if file.exists() else []
    events = [json.loads(line) for line in lines]
    return [
        {key: value for key, value in event.items() if key not in ("time", "seconds")}
        for event in events
        if event["kind"] != "started"
    ]
