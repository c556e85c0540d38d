"""The journal of an owner's books: rows that are only ever appended. Knows no policy, no charge.

A row is appended in one transaction with whatever decides it, and marked as the end in the same.
What a row may say, and how it hangs on the one before, is for `fedkd.client.ledger.hash_chain`.
"""

import json
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from fedkd.client.ledger.hash_chain import BEGINNING, Entry, Head, followed
from fedkd.client.ledger.storage import in_memory, opened
from fedkd.errors import DataError

PAGE = 1000
"""Rows read at once."""
COLUMNS = ", ".join(field.name for field in fields(Entry))
LAST = f"SELECT {COLUMNS} FROM entries ORDER BY sequence DESC LIMIT 1"
NEXT = f"SELECT {COLUMNS} FROM entries WHERE sequence > ? ORDER BY sequence LIMIT {PAGE}"
HEAD = "SELECT sequence, hash FROM head"
APPEND = f"INSERT INTO entries ({COLUMNS}) VALUES ({', '.join('?' for _ in fields(Entry))})"


class Journal:
    """Rows in a file, or in memory. Threads may share one; every process opens its own.

    Args:
        path: of the file, made readable to its owner alone; None keeps rows in memory.
        durable: a row is on the disk before its transaction ends. Without it a row survives the
            end of the process, but the last ones may not survive a loss of power.

    Raises:
        DataError: the file cannot be opened or written, is no ledger, or does not hold together.
    """

    def __init__(self, path: Path | None, *, durable: bool = True) -> None:
        self._name = "the ledger in memory" if path is None else f"the ledger {path}"
        self._alone = threading.Lock()
        try:
            self._db = in_memory() if path is None else opened(path, durable)
        except (OSError, sqlite3.Error) as error:
            raise self._unreadable(error) from error
        try:
            with self._transaction():
                self._last()
        except (DataError, sqlite3.Error) as error:
            self._db.close()
            raise error if isinstance(error, DataError) else self._unreadable(error) from error

    def entries(self) -> Iterator[Entry]:
        """Every row from the first on; rows that are appended meanwhile come too.

        Raises:
            DataError: the books cannot be read.
        """
        after = -(2**63)  # a row of ours is above 0; one that somebody put there is seen
        while rows := self._read(NEXT, after):
            page = [Entry(*row) for row in rows]
            yield from page
            after = page[-1].sequence

    def head(self) -> Head:
        """Where the log ends now; to be written down where whoever can write the file cannot.

        Raises:
            DataError: the books cannot be read.
        """
        rows = self._read(HEAD)
        if len(rows) != 1 or [type(value) for value in rows[0]] != [int, str]:
            raise self._broken("its end is not marked")
        return Head(*rows[0])

    def verify(self, noted: Head | None = None) -> Head:
        """Recompute the chain, and that every row charges what its question costs.

        Found are a row that was changed, put in or taken out, and an end that was cut off. Whoever
        can write the file can also write a whole chain and its mark anew, or put back an older
        copy: that is found against a ``noted`` head, and not otherwise. What was appended falsely
        after the noted head is not found at all.

        Returns:
            Where the log ended when this began.

        Raises:
            DataError: naming the first row that does not hold, or what cannot be read.
        """
        head = self.head()
        last = BEGINNING
        try:
            for last in followed(self.entries(), *filter(None, (head, noted))):
                # Others may append meanwhile, and mark the end in the same transaction.
                if last.sequence > head.sequence and last.sequence > self.head().sequence:
                    raise DataError(f"row {last.sequence} stands behind the end")
        except DataError as error:
            raise self._broken(str(error)) from error
        if (found := self._read("PRAGMA integrity_check")) != [("ok",)]:
            raise self._broken(f"SQLite finds: {' '.join(str(found[0][0]).split())}")
        return head

    def export(self, path: Path) -> int:
        """Write every row as a line of JSON, readable to its owner alone; returns how many.

        Raises:
            DataError: ``path`` exists or cannot be written, or the books cannot be read.
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

    def close(self) -> None:
        """Books that are closed refuse; closing twice does no harm."""
        with self._alone:
            self._db.close()

    @contextmanager
    def _using(self) -> Iterator[None]:
        try:
            with self._transaction():
                yield
        except sqlite3.Error as error:
            raise self._unreadable(error) from error

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing, and nobody else's in between."""
        with self._alone:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _last(self) -> Entry:
        """The last row, in a transaction: what is charged next stands on it, so it must hold."""
        row = self._db.execute(LAST).fetchone()
        last = BEGINNING if row is None else Entry(*row)
        marked = self._db.execute(HEAD).fetchall() == [(last.sequence, last.hash)]
        if not marked or (row is not None and last.hash != last.sealed()):
            raise self._broken(f"row {last.sequence}, its last, was changed or is not the last")
        return last

    def _append(self, entry: Entry) -> None:
        self._db.execute(APPEND, tuple(vars(entry).values()))
        self._db.execute("UPDATE head SET sequence = ?, hash = ?", (entry.sequence, entry.hash))

    def _read(self, question: str, *values: int) -> list[tuple[Any, ...]]:
        try:
            with self._alone:
                return self._db.execute(question, values).fetchall()
        except sqlite3.Error as error:
            raise self._unreadable(error) from error

    def _broken(self, what: str) -> DataError:
        return DataError(
            f"{self._name} does not hold together: {what}; find out who changed it, keep it, and "
            "put the last good copy in its place"
        )

    def _unreadable(self, error: Exception) -> DataError:
        return DataError(
            f"{self._name} cannot be opened or read: {error}; see that it can be written there, or "
            "put the last good copy in its place"
        )
