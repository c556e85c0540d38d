"""Timeout, cancellation and rate limit (a leaky bucket) of the rendering of recipes.

Rendering is work that a coordinator asks for before anything is charged. So it ends after
`MAX_SECONDS`, or as soon as the agent is told to stop, and what was rendered without an answer
fills a leaky bucket: while that is full, nothing is rendered and the samples have to be sent.
"""

import threading
import time
from collections.abc import Callable
from typing import Any

from torch.overrides import TorchFunctionMode

MAX_SECONDS = 10.0
"""Of rendering for one recipe."""
UNANSWERED_SECONDS = 60.0
"""Of rendering without an answer, in any hour; twice as many in the first."""
HOUR = 3600.0


class RenderingStoppedError(Exception):
    """A recipe was not rendered to its end."""


class InterruptibleRendering(TorchFunctionMode):
    """Checks before every call of torch in its block whether this rendering may go on.

    Args:
        stop: set where it shall end.
        seconds: after which it ends.

    Raises:
        RenderingStoppedError: in the block.
    """

    def __init__(self, stop: threading.Event, seconds: float) -> None:
        super().__init__()
        self._stop, self._deadline = stop, time.monotonic() + seconds

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call ``func`` as it is, unless rendering has to end."""
        if self._stop.is_set():
            raise RenderingStoppedError("the agent stops")
        if time.monotonic() > self._deadline:
            raise RenderingStoppedError("it takes too long")
        return func(*args, **(kwargs or {}))


class UnansweredRendering:
    """Leaky bucket of the seconds of rendering that led to no answer. Safe for threads.

    Args:
        clock: monotonic, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._level, self._at = 0.0, clock()

    @property
    def exhausted(self) -> bool:
        """Whether nothing may be rendered for now."""
        with self._lock:
            return self._drained() >= UNANSWERED_SECONDS

    def add(self, seconds: float) -> None:
        """Count seconds of rendering that led to no answer."""
        with self._lock:
            self._level = self._drained() + seconds

    def _drained(self) -> float:
        now = self._clock()
        passed, self._at = max(0.0, now - self._at), now
        self._level = max(0.0, self._level - passed * UNANSWERED_SECONDS / HOUR)
        return self._level
