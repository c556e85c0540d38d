"""When a run may begin, or go on: one rule for every driver. Knows neither hub nor grid.

Everybody who is expected is waited for. Whoever is missing when time is up does not hold up the
others, if they are a quorum.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

LOOK_AGAIN = 0.1
"""Seconds between looks for those who are not here yet."""

Who = TypeVar("Who")


@dataclass(frozen=True)
class Muster:
    """Who is waited for, and how long.

    Attributes:
        count: that are expected, >= 1; once they are here nobody else is waited for.
        quorum: without which nothing begins, >= 1.
        patience: seconds that all may take.
        linger: seconds of them that the others may take once a quorum is here; None for all. A
            first beginning gives all: the student knows the classes of whoever is there.
    """

    count: int
    quorum: int
    patience: float
    linger: float | None = None

    def assemble(
        self, look: Callable[[], Sequence[Who]], tell: Callable[[int], None] = lambda here: None
    ) -> tuple[Who, ...]:
        """Waits.

        Args:
            look: who is here.
            tell: is told how many are, at each look.

        Returns:
            Whoever is here: fewer than a quorum where patience has ended.
        """
        last = until = time.monotonic() + self.patience
        while True:
            here = tuple(look())
            tell(len(here))
            now, enough = time.monotonic(), len(here) >= self.quorum
            if enough and self.linger is not None:
                until = min(until, now + self.linger)
            if len(here) >= self.count or now > last or (enough and now > until):
                return here
            time.sleep(LOOK_AGAIN)
