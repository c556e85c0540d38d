"""The owner's books: what was asked, what was charged, in one SQLite file. Knows no teacher.

Every question is one transaction: what was charged before is looked up, the policy decides, and a
row is appended to the log, which is the only place where charges stand. So several agents of one
owner can share the file, and none of them answers what is not charged. A charge is never taken
back, whatever becomes of the answer.

A question is charged once, for ever: what was answered before tells nobody anything new when it is
answered again, as long as the same teacher answers without noise and all servers count as one
listener. It is then logged as a repeat. Where answers have noise, an image that comes again gets
the answer that is kept here, whatever question it comes in: it is paid for, and new noise would
tell more. Who is killed between the charge and the answer has paid for nothing, and pays again.

What is written: times, servers, names of signals, counts, digests, and noisy answers as they were
told; no pixel, no exact answer, no path.
"""

import hashlib
import json
import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from client.chain import (
    ANSWERED,
    BEGINNING,
    EXAMINATION,
    REFUSED,
    REPEAT,
    Entry,
    Head,
    Spent,
    entry_of,
    followed,
    written,
)
from client.paid import Paid, Price
from client.storage import in_memory, opened
from fedkd.errors import DataError
from fedkd.privacy.policy import Policy, overspent
from fedkd.signals import Ask, PullBack, Reason, Refusal, digest

log = logging.getLogger(__name__)

UNCOUNTED = Refusal(Reason.FAILED, "the institution could not enter this question in its books")
HOUR = timedelta(hours=1)
PAGE = 1000
"""Rows read at once."""
COLUMNS = ", ".join(field.name for field in fields(Entry))
LAST = f"SELECT {COLUMNS} FROM entries ORDER BY sequence DESC LIMIT 1"
NEXT = f"SELECT {COLUMNS} FROM entries WHERE sequence > ? ORDER BY sequence LIMIT {PAGE}"
HEAD = "SELECT sequence, hash FROM head"
APPEND = f"INSERT INTO entries ({COLUMNS}) VALUES ({', '.join('?' for _ in fields(Entry))})"
CHARGED = f"SELECT 1 FROM entries WHERE digest = ? AND decision = '{ANSWERED}'"
SINCE = f"SELECT SUM(cost) FROM entries WHERE time > ? AND decision = '{ANSWERED}'"
EXAMINED = f"SELECT COUNT(*) FROM entries WHERE kind = '{EXAMINATION}' AND decision = '{ANSWERED}'"
TOTALS = "SELECT kind, decision, SUM(cost), COUNT(*) FROM entries GROUP BY kind, decision"
CHARGES = "SELECT data_set, SUM(micro_rho) FROM entries WHERE data_set <> '' GROUP BY data_set"


class Ledger:
    """Books that outlive the process. Threads may share one; every process opens its own.

    Args:
        path: of the file, made readable to its owner alone; None keeps books in memory.
        durable: a charge is on the disk before the answer leaves. Without it a charge survives
            the end of the process, but the last ones may not survive a loss of power.
        clock: the time, with a zone.

    Raises:
        DataError: the file cannot be opened or written, is no ledger, or does not hold together.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        durable: bool = True,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._name = "the ledger in memory" if path is None else f"the ledger {path}"
        self._clock = clock
        self._alone = threading.Lock()
        try:
            self._db = in_memory() if path is None else opened(path, durable)
        except (OSError, sqlite3.Error) as error:
            raise self._unreadable(error) from error
        self.paid = Paid(self._db, self._using)
        try:
            with self._transaction():
                self._last()
        except (DataError, sqlite3.Error) as error:
            self._db.close()
            raise error if isinstance(error, DataError) else self._unreadable(error) from error

    def charge(
        self,
        request: Ask | PullBack,
        policy: Policy,
        server: str = "",
        teacher: bytes = b"",
        price: Price | None = None,
    ) -> Refusal | None:
        """Decide, charge and log a question; to be called before it is answered.

        Args:
            request: well formed.
            policy: the owner's word.
            server: host:port that asks, "" in simulations.
            teacher: up to 64 bytes that tell teachers apart. What one has answered is no repeat
                when another is asked.
            price: in privacy; None where answers cost none.

        Returns:
            None: it is charged, or was before, and may be answered. Else why not; books that
            cannot be written refuse everything.
        """
        content = hashlib.blake2b(digest(request), key=teacher, digest_size=16).hexdigest()
        try:
            with self._transaction():
                now, last = self._clock(), self._last()
                question = entry_of(request, server, now, content)
                refusal = policy.objection(request, server, now.astimezone().time())
                repeat = self._db.execute(CHARGED, (content,)).fetchone() is not None
                if refusal is None and not repeat:
                    # Sums are only taken where somebody wants to know.
                    used = 0 if policy.samples_per_hour is None else self._since(now - HOUR)
                    refusal = policy.excess(question.count, last.after, used)
                if refusal is None and price is not None:
                    due, left = self.paid.due(price), self.paid.left(price)
                    question = replace(question, micro_rho=due, data_set=price.data_set)
                    if due > left:
                        refusal = overspent(question.count, due, left, price.cap)
                if refusal is not None:
                    self._append(last.following(question, REFUSED, refusal.reason.value))
                else:
                    self._append(last.following(question, REPEAT if repeat else ANSWERED))
        except (sqlite3.Error, DataError) as error:
            return self._uncounted(error)
        return refusal

    def examine(self, student: str, policy: Policy) -> Refusal | None:
        """Decide, count and log that a student is examined; to be called before it is.

        Who was examined before learns nothing new by it: that is a repeat, and free.

        Args:
            student: digest of the student and of whoever examines it.
            policy: the owner's word.

        Returns:
            None: it may be. Else why not; books that cannot be written refuse everything.
        """
        try:
            with self._transaction():
                now, last = self._clock(), self._last()
                question = Entry(written(now), "", EXAMINATION, "", 0, student)
                if self._db.execute(CHARGED, (student,)).fetchone() is not None:
                    self._append(last.following(question, REPEAT))
                    return None
                refusal = policy.overexamined(self._db.execute(EXAMINED).fetchone()[0])
                if refusal is not None:
                    self._append(last.following(question, REFUSED, refusal.reason.value))
                else:
                    self._append(last.following(question, ANSWERED))
        except (sqlite3.Error, DataError) as error:
            return self._uncounted(error)
        return refusal

    def refuse(self, request: Ask | PullBack, refusal: Refusal, server: str = "") -> Refusal:
        """Log a question that is refused for another reason than the policy's; charges nothing."""
        try:
            with self._transaction():
                question = entry_of(request, server, self._clock(), "")
                self._append(self._last().following(question, REFUSED, refusal.reason.value))
        except (sqlite3.Error, DataError) as error:
            return self._uncounted(error)
        return refusal

    @property
    def charges(self) -> dict[str, int]:
        """Micro-rho that were charged to each data set by itself.

        Raises:
            DataError: the books cannot be read.
        """
        return dict(self._read(CHARGES))

    @property
    def spent(self) -> Spent:
        """What has been charged and refused so far.

        Raises:
            DataError: the books cannot be read.
        """
        rows = self._read(TOTALS)
        charged = {kind: cost for kind, decision, cost, _ in rows if decision == ANSWERED}
        refused = sum(count for _, decision, _, count in rows if decision == REFUSED)
        examined = sum(n for kind, said, _, n in rows if (kind, said) == (EXAMINATION, ANSWERED))
        return Spent(charged.get("ask", 0), charged.get("pull_back", 0), refused, examined)

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

    def _since(self, then: datetime) -> int:
        return self._db.execute(SINCE, (written(then),)).fetchone()[0] or 0

    def _append(self, entry: Entry) -> None:
        self._db.execute(APPEND, tuple(vars(entry).values()))
        self._db.execute("UPDATE head SET sequence = ?, hash = ?", (entry.sequence, entry.hash))

    def _read(self, question: str, *values: int) -> list[tuple[Any, ...]]:
        try:
            with self._alone:
                return self._db.execute(question, values).fetchall()
        except sqlite3.Error as error:
            raise self._unreadable(error) from error

    def _uncounted(self, error: Exception) -> Refusal:
        """Nothing is answered that cannot be charged; why is for the owner alone."""
        log.error("%s: %s; nothing is answered", self._name, error)
        return UNCOUNTED

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
