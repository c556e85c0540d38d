"""Bans of institutions, for protocol violations or by the operator, stored durably for a run.

A ban is on the disk before anybody is informed of it, the banned institution included. So a resumed
run refuses it too, whenever the process was killed. The file is also how another process, the
operator's ``fedkd-server strike``, has an institution excluded while the run goes on.
"""

import json
import logging
import os
from pathlib import Path

from fedkd.process.private_files import private_opener

log = logging.getLogger(__name__)


class BanReason(str):
    """Why an institution is banned from a run; its type distinguishes it from other reasons."""

    __slots__ = ()


class Exclusion(BanReason):
    """A ban by the operator: the institution's earlier answers are fused out as well."""

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
        self._read = 0  # bytes of the file whose lines were loaded
        self._load()

    def __len__(self) -> int:
        return len(self._reasons)

    def __contains__(self, name: object) -> bool:
        return name in self._reasons

    @property
    def excluded(self) -> dict[str, Exclusion]:
        """Whom the operator excluded, with reasons."""
        reasons = dict(self._reasons)
        return {name: why for name, why in reasons.items() if isinstance(why, Exclusion)}

    def reason(self, name: str) -> BanReason | None:
        """Why ``name`` is banned; None if it is not."""
        return self._reasons.get(name)

    def refresh(self) -> list[str]:
        """Load what another process has added; returns whom it banned, or excluded after a ban."""
        before = dict(self._reasons)
        try:
            self._load()
        except OSError as error:
            log.error("new bans cannot be read: %s: %s", self._path, error.strerror)
        now = dict(self._reasons)  # the hub's thread adds meanwhile
        return [name for name, why in now.items() if type(before.get(name)) is not type(why)]

    def add(self, name: str, why: BanReason) -> None:
        """Bans ``name``; the ban is on the disk once this returns.

        If it cannot be written, it lasts until this process ends, and the log says so.
        """
        if type(self._reasons.get(name)) in (type(why), Exclusion):
            return
        self._reasons[name] = why
        if not isinstance(why, Exclusion):
            log.warning("%s is banned: %s", name, why)
        if self._path is None:
            return
        ban = {"name": name, "why": why, "excluded": isinstance(why, Exclusion)}
        try:
            _append(self._path, b"\n" + json.dumps(ban).encode())
        except OSError as error:
            log.error("a resumed run will not know of it: %s: %s", self._path, error.strerror)

    def _load(self) -> None:
        """Load the file, if it has grown."""
        if self._path is None or not self._path.exists():
            return
        if self._path.stat().st_size == self._read:
            return
        content = self._path.read_bytes()
        self._read = len(content)
        for line in content.split(b"\n"):
            self._load_line(line)

    def _load_line(self, line: bytes) -> None:
        try:
            ban = json.loads(line)
            name, kind = str(ban["name"]), Exclusion if ban.get("excluded") else BanReason
            if not isinstance(self._reasons.get(name), Exclusion):
                self._reasons[name] = kind(ban["why"])
        except (ValueError, TypeError, KeyError, AttributeError):  # torn, or empty
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
