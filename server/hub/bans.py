"""Who was struck off a run, and why. Knows no session and no question.

Where there is a file, a strike is on the disk before anybody hears of it, the institution that was
struck included: whoever takes the run up again keeps it out, at whatever moment the process died.
"""

import json
import logging
import os
from pathlib import Path

log = logging.getLogger(__name__)


class Struck(str):
    """Why an institution is struck off a run: in words, told apart from other reasons by type."""

    __slots__ = ()


class Strikes:
    """Names that may not come back, and why. One thread adds, any may look.

    The file is only ever added to. Each strike begins a line of its own, so that one which was torn
    as its process or its machine died spoils no other.

    Args:
        path: of the file, there or not; None keeps strikes in memory.

    Raises:
        OSError: the file is there and cannot be read.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._known: dict[str, Struck] = {}
        if path is not None and path.exists():
            for line in path.read_bytes().split(b"\n"):
                self._remember(line)

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, name: object) -> bool:
        return name in self._known

    def why(self, name: str) -> Struck | None:
        """Why ``name`` may not come back; None where it may."""
        return self._known.get(name)

    def add(self, name: str, why: Struck) -> None:
        """Strike ``name`` off; it is on the disk once this returns.

        Where it cannot be written it holds until this process ends, and the log says so.
        """
        if name in self._known:
            return
        self._known[name] = why
        log.warning("%s is struck off: %s", name, why)
        if self._path is None:
            return
        try:
            _append(self._path, b"\n" + json.dumps({"name": name, "why": why}).encode())
        except OSError as error:
            log.error("a resumed run will not know of it: %s: %s", self._path, error.strerror)

    def _remember(self, line: bytes) -> None:
        try:
            told = json.loads(line)
            self._known[str(told["name"])] = Struck(told["why"])
        except (ValueError, TypeError, KeyError):  # torn, or empty
            return


def _append(path: Path, content: bytes) -> None:
    """Add to a file, and wait until it is on the disk; its name too, where it is new."""
    new = not path.exists()
    with path.open("ab") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    if new:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
