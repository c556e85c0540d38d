"""Free TCP ports of this machine, for servers that cannot let the operating system choose one."""

import itertools
import os
import socket

FIRST, LAST = 20_000, 30_000
"""Below the ports from which operating systems take those of outgoing connections: one of these
might be taken, by a connection of another process, before the server that was told it listens."""
BLOCK = 40
"""Ports from which one process begins, so that processes started one after another do not meet."""

_numbers = itertools.count()


def free_ports(count: int) -> tuple[int, ...]:
    """``count`` distinct ports of the loopback address, none of them returned before.

    Raises:
        OSError: too few are free.
    """
    found = list[int]()
    for _ in range(LAST - FIRST):
        if len(found) == count:
            return tuple(found)
        port = FIRST + (os.getpid() * BLOCK + next(_numbers)) % (LAST - FIRST)
        if _is_free(port):
            found.append(port)
    raise OSError(f"fewer than {count} of the ports {FIRST} to {LAST} are free")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
