"""Aggregation of repeats and refusals: one ledger entry a minute for each kind of uncharged query.

A repeat and a refusal cost nothing, so a coordinator may send any number of them. The first of a
kind (same server, decision, reason, signals) gets an entry of its own at once; those of the next
minute are counted in memory, and then written as one entry with the number of queries and the sum
of their samples. A process that is killed loses at most these counts, and no charge.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from fedkd.client.ledger.hash_chain import Entry

WINDOW_SECONDS = 60.0
"""Between two entries of one kind."""


@dataclass
class _Window:
    ends: float
    pending: Entry | None = None


class UnchargedCounter:
    """The counts of one process. Not safe for threads.

    Args:
        clock: monotonic, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._windows: dict[tuple[str, ...], _Window] = {}

    @property
    def pending(self) -> bool:
        """Whether anything waits to be written."""
        return any(window.pending for window in self._windows.values())

    def add(self, entry: Entry) -> list[Entry]:
        """Count an uncharged query; the entries that are to be written now.

        Args:
            entry: with its decision and reason.
        """
        kind = (
            entry.server,
            entry.kind,
            entry.decision,
            entry.reason,
            entry.signals,
            entry.data_set,
            entry.mode,
        )
        window = self._windows.get(kind)
        if window is not None and self._clock() < window.ends:
            window.pending = _sum(window.pending, entry)
            return self.take_due()
        self._windows[kind] = _Window(self._clock() + WINDOW_SECONDS)
        return [*self.take_due(), _sum(None if window is None else window.pending, entry)]

    def take_due(self, everything: bool = False) -> list[Entry]:
        """The entries of windows that are over, or of all; they do not wait any longer."""
        due, now = [], self._clock()
        for kind, window in list(self._windows.items()):
            over = now >= window.ends
            if window.pending is not None and (over or everything):
                due.append(window.pending)
                window.pending = None
                window.ends = now + WINDOW_SECONDS
            elif over:
                del self._windows[kind]
        return due


def _sum(one: Entry | None, other: Entry) -> Entry:
    """Both as one entry, with time and digest of the later."""
    if one is None:
        return other
    return replace(other, count=one.count + other.count, queries=one.queries + other.queries)
