"""Bans of institutions that violated the protocol, stored durably for the whole run.

A ban is on the disk before anybody is informed of it, the banned institution included. So a resumed
run refuses it too, whenever the process was killed.
"""

import json
import logging
import os
from pathlib import Path

from fedkd.core.private_files import private_opener

log = logging.getLogger(__name__)


class BanReason(str):
    """Why an institution is banned from a run; its type distinguishes it from other reasons."""

    __slots__ = ()


class Bans:
    """Banned institutions, by name, with reasons. One thread adds, any thread may read.

    The file is append-only. Each ban begins a line of its own, so that a line that was torn when
    its process or its machine died spoils no other.

    Args:
        path: of the file, which need not exist; None keeps bans in memory.

    Raises:
        OSError: the file exists and cannot be read.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._reasons: dict[str, BanReason] = {}
        if path is not None and path.exists():
            for line in path.read_bytes().split(b"\n"):
                self._load_line(line)

    def __len__(self) -> int:
        return len(self._reasons)

    def __contains__(self, name: object) -> bool:
        return name in self._reasons

    def reason(self, name: str) -> BanReason | None:
        """Why ``name`` is banned; None if it is not."""
        return self._reasons.get(name)

    def add(self, name: str, why: BanReason) -> None:
        """Bans ``name``; the ban is on the disk once this returns.

        If it cannot be written, it lasts until this process ends, and the log says so.
        """
        if name in self._reasons:
            return
        self._reasons[name] = why
        log.warning("%s is banned: %s", name, why)
        if self._path is None:
            return
        try:
            _append(self._path, b"\n" + json.dumps({"name": name, "why": why}).encode())
        except OSError as error:
            log.error("a resumed run will not know of it: %s: %s", self._path, error.strerror)

    def _load_line(self, line: bytes) -> None:
        try:
            ban = json.loads(line)
            self._reasons[str(ban["name"])] = BanReason(ban["why"])
        except (ValueError, TypeError, KeyError):  # torn, or empty
            return


def _append(path: Path, content: bytes) -> None:
    """Appends to a file and waits until it is on the disk, with its name if it is new."""
    new = not path.exists()
    with open(path, "ab", opener=private_opener) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    if new:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
