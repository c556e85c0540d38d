"""The anchor of a ledger: a file beside it that remembers which ledger it is and how far it got.

A ledger that is gone, older than it was, or another one would grant a fresh budget. The anchor has
the ledger's id, and number and hash of an entry. It is written after each entry is on the disk, so
it may lag behind the ledger, after a crash or beside another process, and is never ahead of it. An
anchor that is missing or not readable says nothing: whoever deletes both files is not found.
"""

import contextlib
import fcntl
import hashlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fedkd.client.ledger.hash_chain import Head
from fedkd.errors import DataError

log = logging.getLogger(__name__)

MAX_BYTES = 512
"""Of an anchor: one write of a disk."""


@dataclass(frozen=True)
class NotedHead:
    """What an anchor holds."""

    ledger: str
    """Id of the ledger, of its secret key; a copy has the same one."""
    head: Head


class LedgerBehindAnchorError(DataError):
    """A ledger lacks what its anchor remembers.

    Args:
        name: of the ledger, for its owner.
        fault: what is missing.
    """

    def __init__(self, name: str, fault: str) -> None:
        super().__init__(
            f"{name} is not what it was: {fault}; put the file itself in its place, or, if it is "
            "lost, go on without these charges: fedkd-client ledger reset OWNER.toml"
        )
        self.fault = fault


class LedgerAnchor:
    """The file ``ledger.head`` beside a ledger. Several processes may share it.

    Args:
        path: of the anchor; it is created with the first entry.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def noted(self) -> NotedHead | None:
        """What it remembers; None where it is missing or says nothing that can be read."""
        try:
            with self.path.open("rb") as file:
                text = file.read(MAX_BYTES)
        except OSError:
            return None
        return _parsed(text)

    def advance(self, ledger: str, head: Head) -> None:
        """Note an entry that is on the disk, unless a later one of this ledger is noted."""
        with self._locked() as file:
            found = None if file is None else _parsed(os.pread(file, MAX_BYTES, 0))
            behind = found is None or found.ledger != ledger or found.head < head
            if file is not None and behind:
                os.pwrite(file, _text(ledger, head), 0)

    def replace(self, ledger: str, head: Head) -> None:
        """Note a ledger and its head, whatever was noted before.

        Raises:
            OSError: it cannot be written.
        """
        self.path.unlink(missing_ok=True)
        self.advance(ledger, head)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int | None]:
        """The open file, for this process alone; None where it cannot be had, which is logged.

        A charge stands without it: the anchor then lags behind, and forgets nothing.
        """
        try:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            log.warning("%s cannot be written: %s; make room there", self.path, error.strerror)
            yield None
            return
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # another process notes an entry just now; this one may lag
                yield None
            else:
                yield file
        except OSError as error:
            log.warning("%s cannot be written: %s; make room there", self.path, error.strerror)
        finally:
            os.close(file)


def anchor_of(path: Path) -> LedgerAnchor:
    """The anchor that lies beside a ledger."""
    return LedgerAnchor(path.with_suffix(".head"))


def ledger_id(key: bytes) -> str:
    """The id of the ledger with this secret key, which it does not disclose."""
    return hashlib.blake2b(b"anchor", key=key, digest_size=8).hexdigest()


def _text(ledger: str, head: Head) -> bytes:
    content = f"{ledger} {head.sequence:020} {head.hash}"
    return f"{content} {_checksum(content)}\n".encode()


def _parsed(text: bytes) -> NotedHead | None:
    content, _, checksum = text.decode("ascii", "replace").rstrip("\n").rpartition(" ")
    parts = content.split(" ")
    if len(parts) != 3 or checksum != _checksum(content) or not parts[1].isdecimal():
        return None
    return NotedHead(parts[0], Head(int(parts[1]), parts[2]))


def _checksum(content: str) -> str:
    """Of a write that a crash tore apart; it proves nothing against anybody."""
    return hashlib.blake2b(content.encode(), digest_size=8).hexdigest()
