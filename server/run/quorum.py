"""Quorum: wait until all expected participants are there, or a minimum when time is up.

Every driver waits by this rule, at the start of a run and when it is resumed.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

POLL_SECONDS = 0.1
"""Interval between calls of ``present``."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class Quorum:
    """How many participants are waited for, and how long.

    Attributes:
        expected: once so many are there nobody else is waited for, >= 1.
        minimum: without so many nothing starts, >= 1.
        timeout: seconds that all of them may take.
        linger: seconds of ``timeout`` that the others may take once the minimum is there; None
            for all of it, as at a first start, since the student has outputs for the classes of
            those who are there.
    """

    expected: int
    minimum: int
    timeout: float
    linger: float | None = None

    def wait_for(
        self,
        present: Callable[[], Sequence[Item]],
        progress: Callable[[int], None] = lambda count: None,
        turned_away: Callable[[], int] = lambda: 0,
    ) -> tuple[Item, ...]:
        """Waits for participants.

        Args:
            present: returns those who are there.
            progress: called with their number at each poll.
            turned_away: returns how many of those expected came, do not fit, and are not there:
                nobody waits for them.

        Returns:
            Those who are there: fewer than the minimum if the time is up.
        """
        last = until = time.monotonic() + self.timeout
        while True:
            here = tuple(present())
            progress(len(here))
            now, enough = time.monotonic(), len(here) >= self.minimum
            if enough and self.linger is not None:
                until = min(until, now + self.linger)
            expected = max(self.minimum, self.expected - turned_away())
            if len(here) >= expected or now > last or (enough and now > until):
                return here
            time.sleep(POLL_SECONDS)
