"""Append-only log of ledger entries in SQLite: append, read, verify the hash chain, export.

An entry is appended in the same transaction that decides about it and that moves the head. What an
entry holds, and how it is linked to the one before, is for `fedkd.client.ledger.hash_chain`.
"""

import contextlib
import json
import math
import os
import secrets
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from fedkd.client.ledger.hash_chain import GENESIS, Entry, Head, verified_chain
from fedkd.client.ledger.rollback_detection import (
    LedgerAnchor,
    LedgerBehindAnchorError,
    NotedHead,
    ledger_id,
)
from fedkd.client.ledger.sqlite_file import (
    copy_database,
    file_identity,
    fsync,
    open_file,
    open_in_memory,
)
from fedkd.errors import DataError

PAGE = 1000
"""Rows read at once."""
COLUMNS = ", ".join(field.name for field in fields(Entry))
LAST = f"SELECT {COLUMNS} FROM entries ORDER BY sequence DESC LIMIT 1"
NEXT = f"SELECT {COLUMNS} FROM entries WHERE sequence > ? ORDER BY sequence LIMIT {PAGE}"
HEAD = "SELECT sequence, hash FROM head"
HASH_OF = "SELECT hash FROM entries WHERE sequence = ?"
APPEND = f"INSERT INTO entries ({COLUMNS}) VALUES ({', '.join('?' for _ in fields(Entry))})"


class Journal:
    """Entries in a file, or in memory. Threads may share one; every process opens its own.

    Args:
        path: of the file, made readable to its owner alone; None keeps the entries in memory.
        durable: an entry is on the disk before its transaction ends. Without it an entry survives
            the end of the process, but the last ones may not survive a loss of power.
        anchor: remembers how far the ledger got; None where nobody does.

    Raises:
        DataError: the file cannot be opened or written, is no ledger, fails verification, or lacks
            what the anchor remembers.
    """

    def __init__(
        self, path: Path | None, *, durable: bool = True, anchor: LedgerAnchor | None = None
    ) -> None:
        self._name = "the ledger in memory" if path is None else f"the ledger {path}"
        self._lock = threading.Lock()
        self._path = None if path is None else path.absolute()
        self._identity: tuple[tuple[int, int] | None, ...] | None = None
        self._anchor, self._id = anchor, ""
        self._appended: Head | None = None
        noted = None if anchor is None else anchor.noted()
        if path is not None and noted is not None and noted.head.sequence and not path.exists():
            raise self._lacks(f"it is missing, and had {_rows(noted.head.sequence)}")
        try:
            self._db = open_in_memory() if path is None else open_file(path, durable)
        except (OSError, sqlite3.Error) as error:
            raise self._unreadable(error) from error
        try:
            before = self._file_identity()
            with self._transaction():
                self._appended = self._checked_against(noted)
                self._identity = self._file_identity()  # now with its log
            if before and self._identity and before[0] != self._identity[0]:
                raise self._replaced()
        except (DataError, sqlite3.Error) as error:
            self._db.close()
            raise error if isinstance(error, DataError) else self._unreadable(error) from error

    def entries(self) -> Iterator[Entry]:
        """Every entry from the first on; entries that are appended meanwhile come too.

        Raises:
            DataError: the ledger cannot be read.
        """
        self._flush()
        after: float = -math.inf  # our entries start at 1; an inserted one below that is seen too
        while rows := self._read(NEXT, after):
            page = [Entry(*row) for row in rows]
            yield from page
            after = page[-1].sequence

    def head(self) -> Head:
        """The head of the chain now. Write it down where nobody who can write the file can.

        Raises:
            DataError: the ledger cannot be read.
        """
        self._flush()
        rows = self._read(HEAD)
        if len(rows) != 1 or [type(value) for value in rows[0]] != [int, str]:
            raise self._corrupt("its end is not marked")
        return Head(*rows[0])

    @property
    def id(self) -> str:
        """Of the ledger, by which its anchor knows it and its copies."""
        return self._id

    def verify(self, noted: Head | None = None) -> Head:
        """Recompute the hash chain, and check that every entry charges what its query costs.

        Found are an entry that was changed, inserted or removed, and an end that was cut off.
        Whoever can write the file can also rewrite the whole chain and its head, or put back an
        older copy. That is found against a ``noted`` head, and not otherwise. False entries that
        were appended after the noted head are not found at all.

        Returns:
            The head when this began.

        Raises:
            DataError: naming the first entry that fails, or what cannot be read.
        """
        head = self.head()
        last = GENESIS
        try:
            for last in verified_chain(self.entries(), *filter(None, (head, noted))):
                # Others may append meanwhile, and move the head in the same transaction.
                if last.sequence > head.sequence and last.sequence > self.head().sequence:
                    raise DataError(f"row {last.sequence} stands behind the end")
        except DataError as error:
            raise self._corrupt(str(error)) from error
        if (found := self._read("PRAGMA integrity_check")) != [("ok",)]:
            raise self._corrupt(f"SQLite finds: {' '.join(str(found[0][0]).split())}")
        return head

    def export(self, path: Path) -> int:
        """Write every entry as a line of JSON, readable to its owner alone; returns how many.

        Raises:
            DataError: ``path`` exists or cannot be written, or the ledger cannot be read.
        """
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                rows = 0
                for entry in self.entries():
                    file.write(json.dumps(vars(entry)) + "\n")
                    rows += 1
                return rows
        except OSError as error:
            raise DataError(
                f"cannot write {path}: {error.strerror}; name a file that is not there yet"
            ) from error

    def backup(self, path: Path) -> Head:
        """Copy the ledger, with what is in its write-ahead log; others may append meanwhile.

        The copy is one file, verified and on the disk, readable to its owner alone.

        Returns:
            The head of the copy.

        Raises:
            DataError: ``path`` exists or cannot be written, or the ledger fails verification.
        """
        head = self.verify()
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            with self._lock:
                copy_database(self._db, part)
            with contextlib.closing(Journal(part)) as copy:
                head = copy.verify(head)
            fsync(part)
            os.link(part, path)
            fsync(path.parent)
        except (OSError, sqlite3.Error) as error:
            raise DataError(
                f"cannot write {path}: {getattr(error, 'strerror', error)}; name a file that is "
                "not there yet"
            ) from error
        finally:
            part.unlink(missing_ok=True)
        return head

    def close(self) -> None:
        """Close the file. A closed ledger refuses every query; closing twice does no harm."""
        with contextlib.suppress(DataError):  # then these counts are lost, and no charge
            self._flush()
        with self._lock:
            self._db.close()

    def _file_identity(self) -> tuple[tuple[int, int] | None, ...] | None:
        return None if self._path is None else file_identity(self._path)

    def _flush(self) -> None:
        """Write what waits in memory; in a journal nothing does."""

    @contextmanager
    def _checked_transaction(self) -> Iterator[None]:
        """As `_transaction`, with SQLite's errors as `DataError`."""
        try:
            with self._transaction():
                yield
        except sqlite3.Error as error:
            raise self._unreadable(error) from error

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """An exclusive transaction: all of it is written, or nothing.

        Raises:
            DataError: another file is there now; what is written to ours would be lost.
        """
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                if self._identity and self._file_identity() != self._identity:
                    raise self._replaced()
                yield
                self._db.execute("COMMIT")
                self._advance_anchor()
            except BaseException:
                self._appended = None
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _last(self) -> Entry:
        """The last entry, in a transaction; verified, since the next charge builds on it."""
        row = self._db.execute(LAST).fetchone()
        last = GENESIS if row is None else Entry(*row)
        is_head = self._db.execute(HEAD).fetchall() == [(last.sequence, last.hash)]
        if not is_head or (row is not None and last.hash != last.computed_hash()):
            raise self._corrupt(f"row {last.sequence}, its last, was changed or is not the last")
        return last

    def _append(self, entry: Entry) -> None:
        self._db.execute(APPEND, tuple(vars(entry).values()))
        self._db.execute("UPDATE head SET sequence = ?, hash = ?", (entry.sequence, entry.hash))

        self._appended = Head(entry.sequence, entry.hash)

    def _advance_anchor(self) -> None:
        """After a transaction: note its last entry, if it has one."""
        head, self._appended = self._appended, None
        if self._anchor is not None and head is not None and head.sequence:
            self._anchor.advance(self._id, head)

    def _checked_against(self, noted: NotedHead | None) -> Head:
        """The head, in a transaction, where the ledger has what its anchor remembers.

        Raises:
            DataError: it has not, or its last entry was changed.
        """
        last = self._last()
        (key,) = self._db.execute("SELECT key FROM secret").fetchone()
        self._id = ledger_id(key)
        if noted is not None and noted.head.sequence:
            sequence, digest = noted.head
            if noted.ledger != self._id:
                raise self._lacks(f"it is another one, and the one before had {_rows(sequence)}")
            if sequence > last.sequence:
                missing = sequence - last.sequence
                raise self._lacks(f"it lacks the latest {missing} of {_rows(sequence)}")
            if self._db.execute(HASH_OF, (sequence,)).fetchone() != (digest,):
                raise self._lacks(f"row {sequence} is another than the one that was written")
        return Head(last.sequence, last.hash)

    def _read(self, query: str, *values: float) -> list[tuple[Any, ...]]:
        try:
            with self._lock:
                return self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise self._unreadable(error) from error

    def _corrupt(self, fault: str) -> DataError:
        return DataError(
            f"{self._name} fails verification: {fault}; find out who changed it, keep it, and "
            "put the last good copy in its place"
        )

    def _lacks(self, fault: str) -> DataError:
        return LedgerBehindAnchorError(self._name, fault)

    def _replaced(self) -> DataError:
        return DataError(
            f"{self._name}, or the -wal file beside it, was deleted or replaced while it was in "
            "use; stop this process, and put the last good copy in its place"
        )

    def _unreadable(self, error: Exception) -> DataError:
        return DataError(
            f"{self._name} cannot be opened or read: {error}; see that it can be written there, or "
            "put the last good copy in its place"
        )


def _rows(count: int) -> str:
    return f"{count} row{'s' if count != 1 else ''}"
