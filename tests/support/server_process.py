"""``fedkd-server`` in a process of its own, for tests that connect to it."""

import os
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOON = 60.0


class ServerProcess:
    """A running ``fedkd-server``, whose lines on standard error can be waited for."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fedkd.server.cli", *arguments],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "120"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.errors: list[str] = []
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.errors.append(line.rstrip("\n"))
            self._lines.put(line)

    def wait_for_line(self, pattern: str) -> str:
        """Wait for the first matching line; returns its first group."""
        deadline = time.monotonic() + SOON
        while True:
            line = self._lines.get(timeout=max(0.1, deadline - time.monotonic()))
            if found := re.search(pattern, line):
                return found[1]

    def end(self) -> int:
        self.process.wait(SOON)
        self._reader.join(SOON)
        return self.process.returncode


@contextmanager
def running_server(folder: Path, *arguments: str) -> Iterator[ServerProcess]:
    command = ServerProcess(folder, *arguments)
    try:
        yield command
    finally:
        if command.process.poll() is None:
            command.process.kill()
        command.process.wait()
