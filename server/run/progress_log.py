"""Notes a run's progress on the log, where no terminal shows bars. Knows nobody who writes them."""

import logging

from fedkd.core.logs import say
from fedkd.loop import Progress

log = logging.getLogger(__name__)


class Diary:
    """A `fedkd.loop.Watch` that writes an event now and then.

    Args:
        parts: into so many a run is divided; each is noted once.
    """

    def __init__(self, parts: int) -> None:
        self._parts, self._noted = parts, -1

    def __call__(self, progress: Progress) -> None:
        """Note what is worth it: who comes and goes, and each part of the run once."""
        facts = progress.facts
        match progress.kind:
            case "lost" | "struck":
                say(log, progress.kind, logging.WARNING, **facts)
            case "joined" | "back":
                say(log, progress.kind, logging.INFO, **facts)
            case "trained":
                done = facts.get("done")
                if isinstance(done, float) and (part := int(done * self._parts)) > self._noted:
                    self._noted = part
                    told = {key: facts.get(key) for key in ("done", "asked", "step", "loss")}
                    say(log, "trained", logging.INFO, **told)
