"""An institution's session ends with the institution's own certificate.

gRPC's Python does not show a client the certificate of the server, so that only our own is watched.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

RECHECK_SECONDS = 600.0
"""Between two looks at the clock, which may be set while a session lasts."""


def expiry_text(expiry: datetime) -> str:
    """That our own certificate has expired, and what to do."""
    return (
        f"our own certificate expired on {expiry:%Y-%m-%d %H:%M:%S} UTC; "
        "renew it, and start the agent again"
    )


@contextmanager
def calling_at(expiry: datetime | None, call: Callable[[], None]) -> Iterator[None]:
    """Calls ``call`` in a thread of its own once ``expiry`` has passed, unless the block ended.

    Args:
        expiry: a moment in UTC; None for never.
        call: called at most once.
    """
    if expiry is None:
        yield
        return
    ended = threading.Event()
    thread = threading.Thread(
        target=_wait_and_call, args=(expiry, ended, call), name="fedkd-certificate", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _wait_and_call(expiry: datetime, ended: threading.Event, call: Callable[[], None]) -> None:
    while (left := (expiry - datetime.now(UTC)).total_seconds()) >= 0:
        if ended.wait(min(left + 0.01, RECHECK_SECONDS)):
            return
    call()
