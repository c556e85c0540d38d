"""A child process that lives as long as a block."""

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from fedkd.errors import SettingsError

START_TIMEOUT = 60.0
"""Seconds that the process may take to report that it is ready."""
EXIT_TIMEOUT = 10.0
"""Seconds that it may take to exit."""


@contextmanager
def child_process(work: Callable[..., None], *arguments: object) -> Iterator["tuple[Any, int]"]:
    """Run ``work(connection, *arguments)`` in another process.

    It sends one message over its connection once it is ready, and ends when the connection is
    closed, so also when this process is killed.

    Yields:
        Its message, and its process id.

    Raises:
        SettingsError: it did not start.
    """
    # Not a fork: gRPC's threads and torch's do not survive one.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(theirs, *arguments), daemon=True)
    process.start()
    theirs.close()
    try:
        if not ours.poll(START_TIMEOUT):
            raise SettingsError(
                f"a process of the benchmark was not ready within {START_TIMEOUT:g} s; "
                "free the machine"
            )
        yield ours.recv(), process.pid or 0
    except EOFError:
        raise SettingsError("a process of the benchmark ended early; see above why") from None
    finally:
        ours.close()
        process.join(EXIT_TIMEOUT)
        if process.is_alive():
            process.kill()
            process.join()


def wait_until_closed(connection: Connection) -> None:
    """Wait until the other end is closed."""
    try:
        connection.recv()
    except EOFError:
        return
