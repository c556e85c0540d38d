"""Linger: how long the others are waited for once a quorum has answered a question.

Without it one slow institution costs everybody the whole timeout, at every question.
"""

import math
import threading
import time
from collections.abc import Collection
from concurrent.futures import Future

from fedkd.experiment import ADAPTIVE, ALL, Linger
from fedkd.protocol import Refusal, Reply

LINGER_FLOOR_SECONDS = 15.0
"""Adaptive linger is never shorter. Honest answers that a loaded machine, a slow link or a
teacher's first question delays must not be lost: students of a seed would depend on the load."""
LINGER_FACTOR = 4.0
"""Adaptive linger, in units of the time that the quorum took."""


def linger_seconds(linger: Linger, quorum_seconds: float) -> float:
    """Seconds that the others may take after a quorum that took ``quorum_seconds``.

    Infinite for `ALL`; the question's timeout then ends the wait.
    """
    if isinstance(linger, str):
        adaptive = max(LINGER_FLOOR_SECONDS, LINGER_FACTOR * quorum_seconds)
        return adaptive if linger == ADAPTIVE else math.inf
    return linger


def wait_for_outcomes(
    outcomes: "Collection[Future[Reply | Refusal]]",
    timeout: float,
    quorum: int,
    linger: Linger,
) -> float | None:
    """Waits until all are done, or the time is up.

    Args:
        outcomes: one for each institution.
        timeout: seconds for all of them, >= 0.
        quorum: replies after which the others have ``linger`` alone, >= 1; a refusal is no reply.
        linger: a number of seconds, `ADAPTIVE` or `ALL`.

    Returns:
        The linger in seconds where that ended the wait; None if all are done, or the timeout did.
    """
    began, counted = time.monotonic(), _Counted(outcomes, quorum)
    if linger == ALL or not counted.quorum.wait(timeout):
        counted.all.wait(max(0.0, began + timeout - time.monotonic()))
        return None
    now = time.monotonic()
    seconds = linger_seconds(linger, now - began)
    left = began + timeout - now
    if counted.all.wait(max(0.0, min(seconds, left))) or left <= seconds:
        return None
    return seconds


class _Counted:
    """Counts replies as they come: each costs the same, however many others are waited for."""

    def __init__(self, outcomes: "Collection[Future[Reply | Refusal]]", quorum: int) -> None:
        self.quorum, self.all = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._missing, self._replies_missing = len(outcomes), quorum
        if not outcomes:
            self.quorum.set()
            self.all.set()
        for outcome in outcomes:
            outcome.add_done_callback(self._count)

    def _count(self, outcome: "Future[Reply | Refusal]") -> None:
        replied = (
            not outcome.cancelled()
            and outcome.exception() is None
            and isinstance(outcome.result(), Reply)
        )
        with self._lock:
            self._missing -= 1
            self._replies_missing -= replied
            if self._replies_missing <= 0 or not self._missing:
                self.quorum.set()
            if not self._missing:
                self.all.set()
