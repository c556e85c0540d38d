"""What an owner has paid for with privacy: whose, how much, and the answers themselves.

These are the tables of his books beside the log. They know no policy and no teacher.

A data set has a name that lasts, made of its images under a key that never leaves the books: what
its teacher is, or whether there is one, does not matter. Two data sets that share an image are kin,
and what is charged to one counts for the other too, so that an image more or less is no new budget.
An image that is in several has then never been charged more than one budget.
"""

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor

NAME = 8
"""Bytes of a data set's name."""
FOUND = "SELECT told FROM answers WHERE row = ?"
SPENT = """
SELECT SUM(micro_rho) FROM entries WHERE decision <> 'refused'
AND data_set IN (SELECT other FROM kin WHERE one = ?)
"""
RELATED = """
SELECT DISTINCT theirs.data_set FROM images AS own JOIN images AS theirs USING (digest)
WHERE own.data_set = ?
"""


@dataclass(frozen=True)
class Price:
    """What a question costs in privacy."""

    rows: tuple[bytes, ...]
    """One key an image: equal where the same answer is due."""
    each: int
    """Micro-rho of a row that has no answer yet, >= 1."""
    cap: int
    """Micro-rho that may be charged to the data set."""
    data_set: str
    """As `enrol` named it."""


class Paid:
    """These tables.

    Args:
        db: of the books.
        using: a transaction of their own, raising `DataError` where the books cannot be used.
    """

    def __init__(
        self, db: sqlite3.Connection, using: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self._db, self._using = db, using

    def enrol(self, images: Iterable[bytes]) -> str:
        """The name of the data set of these images, by their digests; its kin are found once.

        No images: whoever does not know what his teacher was trained on shares one name.

        Raises:
            DataError: the books cannot be written.
        """
        with self._using():
            (key,) = self._db.execute("SELECT key FROM secret").fetchone()
            marks = sorted({blake2b(i, key=key, digest_size=16).digest() for i in images})
            name = blake2b(b"".join(marks), key=key, digest_size=NAME).hexdigest()
            if self._db.execute("SELECT 1 FROM kin WHERE one = ?", (name,)).fetchone() is None:
                held = ((mark, name) for mark in marks)
                self._db.executemany("INSERT INTO images VALUES (?, ?)", held)
                related = {row[0] for row in self._db.execute(RELATED, (name,))} | {name}
                pairs = {pair for other in related for pair in ((name, other), (other, name))}
                self._db.executemany("INSERT INTO kin VALUES (?, ?)", pairs)
        return name

    def spent(self, data_set: str) -> int:
        """Micro-rho that were charged to a data set and its kin.

        Raises:
            DataError: the books cannot be read.
        """
        with self._using():
            return self._spent(data_set)

    def told(self, rows: Sequence[bytes]) -> dict[bytes, Tensor]:
        """Answers that were kept under these rows, (W,) int64.

        Raises:
            DataError: the books cannot be read.
        """
        with self._using():
            found = {row: self._db.execute(FOUND, (row,)).fetchone() for row in set(rows)}
        return {
            row: torch.frombuffer(bytearray(kept[0]), dtype=torch.int64)
            for row, kept in found.items()
            if kept is not None
        }

    def keep(self, rows: Sequence[bytes], answers: Tensor) -> None:
        """Keep (n, W) int64 answers; where somebody was quicker, his stands.

        Raises:
            DataError: the books cannot be written.
        """
        contents = (answer.numpy().tobytes() for answer in answers.contiguous())
        kept = zip(rows, contents, strict=True)
        with self._using():
            self._db.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?)", kept)

    def due(self, price: Price) -> int:
        """In the caller's transaction: micro-rho of rows that have no answer yet, each once."""
        missing = [r for r in set(price.rows) if self._db.execute(FOUND, (r,)).fetchone() is None]
        return price.each * len(missing)

    def left(self, price: Price) -> int:
        """In the caller's transaction: micro-rho that may still be charged."""
        return max(0, price.cap - self._spent(price.data_set))

    def _spent(self, data_set: str) -> int:
        total: int = self._db.execute(SPENT, (data_set,)).fetchone()[0] or 0
        return total
