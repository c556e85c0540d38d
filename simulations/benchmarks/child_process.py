"""A process beside ours, for the time of a block. Knows nothing of what it does."""

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from fedkd.errors import SettingsError

STARTING = 60.0
"""Seconds that a partner may take until it says that it is there."""
ENDING = 10.0
"""Seconds that it may take to go."""


@contextmanager
def partner(work: Callable[..., None], *told: object) -> Iterator["tuple[Any, int]"]:
    """Have ``work(connection, *told)`` done in another process.

    It sends one word over its connection once it is there, and ends when the connection does: so
    it also ends when we are killed.

    Yields:
        Its word, and its process id.

    Raises:
        SettingsError: it did not come.
    """
    # Not a fork: gRPC's threads and torch's do not survive one.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(theirs, *told), daemon=True)
    process.start()
    theirs.close()
    try:
        if not ours.poll(STARTING):
            raise SettingsError(
                f"a process of the benchmark was not ready within {STARTING:g} s; free the machine"
            )
        yield ours.recv(), process.pid or 0
    except EOFError:
        raise SettingsError("a process of the benchmark ended early; see above why") from None
    finally:
        ours.close()
        process.join(ENDING)
        if process.is_alive():
            process.kill()
            process.join()


def until_over(connection: Connection) -> None:
    """Wait for the other end to go."""
    try:
        connection.recv()
    except EOFError:
        return
