"""Progress log: a `fedkd.loop.Watch` that writes log events when no terminal shows progress."""

import logging

from fedkd.loop import Progress
from fedkd.process.logs import log_event

log = logging.getLogger(__name__)


class ProgressLog:
    """Logs participants that come and go, and the progress of training at regular intervals.

    Args:
        intervals: number of intervals of a run; each is logged once.
    """

    def __init__(self, intervals: int) -> None:
        self._intervals, self._logged = intervals, -1

    def __call__(self, progress: Progress) -> None:
        """Log one progress event, unless its interval was logged already."""
        facts = progress.facts
        match progress.kind:
            case "lost" | "banned" | "excluded":
                log_event(log, progress.kind, logging.WARNING, **facts)
            case "joined" | "returned":
                log_event(log, progress.kind, logging.INFO, **facts)
            case "held_back":
                values = {key: value for key, value in facts.items() if value is not None}
                log_event(log, "held_back", logging.INFO, **values)
            case "trained":
                done = facts.get("done")
                if not isinstance(done, float):
                    return
                if (interval := int(done * self._intervals)) > self._logged:
                    self._logged = interval
                    values = {key: facts.get(key) for key in ("done", "asked", "step", "loss")}
                    log_event(log, "trained", logging.INFO, **values)
