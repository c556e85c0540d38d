"""The page of a run that this process drives, served by a child process on ``--live PORT``.

Drawing plots takes a processor, and matplotlib is not made for threads: in the process of the run
it would slow the run down, and could end it.
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedkd.server.report.live.page_server import address, listen, new_key

LAST_PAGE_SECONDS = 15.0
"""For which the child goes on after the run, until an open page has got the finished report."""
_NICENESS = 10


@contextmanager
def live_page(folder: Path, port: int | None, command: str) -> Iterator[None]:
    """Serve the page of the run in ``folder`` while the block goes on.

    Args:
        folder: of the run; it may not be there yet.
        port: of the loopback interface, 0 for any that is free; None serves nothing.
        command: that the printed address is from.

    Raises:
        SettingsError: the port is taken.
    """
    if port is None:
        yield
        return
    listening, key = listen(port), new_key()
    with listening:
        where = address(listening, key)
        child = subprocess.Popen(
            # -P: a module of the user's working directory hides none of ours.
            [sys.executable, "-P", "-m", "fedkd.server.report.live"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[listening.fileno()],
            start_new_session=True,  # Ctrl-C is for the run, which ends the page itself
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        settings = {"folder": str(folder.resolve()), "key": key, "socket": listening.fileno()}
    assert child.stdin is not None
    child.stdin.write(json.dumps(settings).encode() + b"\n")
    child.stdin.flush()
    print(f"{command}: live page at {where}", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        # The child sees that its input ends, and goes on until the last page was fetched. It is
        # waited for in a thread, so that no zombie is left and no run ends later for it.
        with contextlib.suppress(OSError):
            child.stdin.close()
        threading.Thread(target=child.wait, daemon=True).start()


def serve_for_parent() -> None:
    """What the child does: read settings from its input, serve, and end soon after that ends."""
    import socket

    from fedkd.server.report.live.live_page import LivePage
    from fedkd.server.report.live.page_server import PageServer

    os.nice(_NICENESS)
    settings = json.loads(sys.stdin.buffer.readline())
    listening = socket.socket(fileno=settings["socket"])
    server = PageServer(listening, LivePage(Path(settings["folder"])), settings["key"])
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.buffer.read()
    server.finished_served.wait(LAST_PAGE_SECONDS)
    server.shutdown()
    server.server_close()
