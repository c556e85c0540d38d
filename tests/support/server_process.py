"""``fedkd-server`` in a process of its own, for tests that connect to it."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.forked_cli import ForkedCommand

SOON = 60.0


class ServerProcess:
    """A running ``fedkd-server``, whose lines on standard error can be waited for."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        number = len(list(folder.glob("server-*.errors")))
        self._file = folder / f"server-{number}.errors"
        self._seen = 0
        self.process = ForkedCommand(
            ["fedkd-server", *arguments],
            folder,
            folder / f"server-{number}.output",
            self._file,
            environment={"COLUMNS": "120"},
        )

    @property
    def errors(self) -> list[str]:
        """The whole lines on standard error so far."""
        return self._file.read_text().split("\n")[:-1]

    def wait_for_line(self, pattern: str) -> str:
        """Wait for the first line that matches, after those of earlier calls; its first group."""
        deadline = time.monotonic() + SOON
        while True:
            running = self.process.poll() is None
            for line in self.errors[self._seen :]:
                self._seen += 1
                if found := re.search(pattern, line):
                    return found[1]
            assert running, (pattern, self.errors[-5:])
            assert time.monotonic() < deadline, (pattern, self.errors[-5:])
            time.sleep(0.02)

    def end(self) -> int:
        return self.process.wait(SOON)


@contextmanager
def running_server(folder: Path, *arguments: str) -> Iterator[ServerProcess]:
    command = ServerProcess(folder, *arguments)
    try:
        yield command
    finally:
        command.process.kill()
        command.process.wait()
