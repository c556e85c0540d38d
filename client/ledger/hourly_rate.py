"""Rate limit: samples charged in the last hour, by the ledger's times and the monotonic clock.

A machine's clock may jump. Three rules keep the hourly cap what it is:

* What this process charged within an hour of its monotonic clock counts, whatever the times say: a
  clock that is set ahead frees nothing.
* An entry whose time is still to come was written before the clock was set back, or by a clock that
  was ahead. It counts until an entry behind it is an hour old by the present clock. So a clock that
  is set back gives nothing away, and one that was a year ahead refuses for an hour and not a year.
* What this process charged more than a monotonic hour ago, and all before it, does not count.
"""

import sqlite3
from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta

from fedkd.client.ledger.hash_chain import ANSWERED, Entry, timestamp

HOUR = timedelta(hours=1)
CHARGED = f"SELECT SUM(cost) FROM entries WHERE decision = '{ANSWERED}' AND sequence > ?"
PAST = f"{CHARGED} AND time > ? AND time <= ?"
FUTURE = f"{CHARGED} AND time > ?"
HOUR_OLD = "SELECT sequence FROM entries WHERE time <= ? ORDER BY sequence DESC LIMIT 1"


class HourlyRate:
    """The samples of the last hour, in the caller's transactions.

    Args:
        db: connection to the ledger's file.
        monotonic: seconds of a clock that nobody sets.
    """

    def __init__(self, db: sqlite3.Connection, monotonic: Callable[[], float]) -> None:
        self._db, self._monotonic = db, monotonic
        self._own: deque[tuple[float, Entry]] = deque()
        self._over = 0
        """Number of the last entry of which this process knows that an hour has passed since."""

    def add(self, entry: Entry) -> None:
        """Count an entry that this process has charged, once it is written."""
        self._forget()
        self._own.append((self._monotonic(), entry))

    def samples(self, now: datetime) -> int:
        """Samples charged in the last hour.

        Args:
            now: by the clock that gives entries their times.
        """
        self._forget()
        then, at = timestamp(now - HOUR), timestamp(now)
        counted = self._sum(PAST, self._over, then, at)
        behind = self._over
        if self._sum(FUTURE, behind, at):
            found = self._db.execute(HOUR_OLD, (then,)).fetchone()
            behind = max(behind, found[0] if found else 0)
            counted += self._sum(FUTURE, behind, at)
        for _, entry in self._own:
            if entry.time <= then or (entry.time > at and entry.sequence <= behind):
                counted += entry.cost
        return counted

    def _sum(self, query: str, *values: int | str) -> int:
        total: int | None = self._db.execute(query, values).fetchone()[0]
        return total or 0

    def _forget(self) -> None:
        limit = self._monotonic() - HOUR.total_seconds()
        while self._own and self._own[0][0] <= limit:
            self._over = max(self._over, self._own.popleft()[1].sequence)
