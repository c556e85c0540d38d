"""Whose privacy it is: the data sets in an owner's books, and what was told of each, in any mode.

A data set has a name that lasts, made of its images under a key that never leaves the books: what
its teacher is, or whether there is one, does not matter. Two data sets that share an image are kin,
and what is charged to one counts for the other too, so that an image more or less is no new budget.
An image that is in several has then never been charged more than one budget. Of a teacher from
elsewhere nobody knows the images; they may be any, so they are kin to all.
"""

import sqlite3
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from hashlib import blake2b

from fedkd.client.ledger.hash_chain import ANSWERED, TRAINING
from fedkd.privacy.budget import Spending
from fedkd.privacy.release_policy import MODES

NAME = 8
"""Bytes of a data set's name."""
WHOLE = frozenset(name for name, mode in MODES.items() if mode.whole)
"""Modes whose charges protect the whole data set."""
RELATED = """
SELECT DISTINCT theirs.data_set FROM images AS own JOIN images AS theirs USING (digest)
WHERE own.data_set = ?
"""
KIN = "data_set IN (SELECT other FROM kin WHERE one = ?)"
ALONE = "data_set = ?"
NOISY = "SELECT mode, SUM(micro_rho) FROM entries WHERE micro_rho > 0 AND {} GROUP BY mode"
TRAINED = f"""
SELECT epsilon, delta FROM entries
WHERE kind = '{TRAINING}' AND decision = '{ANSWERED}' AND {{}} ORDER BY sequence
"""
UNPROMISED = "SELECT SUM(cost) FROM entries WHERE mode = 'none' AND cost > 0 AND {}"
TOLD_OF = "SELECT DISTINCT data_set FROM entries WHERE data_set <> '' ORDER BY data_set"


@dataclass(frozen=True)
class Training:
    """One private training, as it is charged: by what it was to promise, whatever came of it."""

    key: str
    """Of this training and no other; its teacher is kept under it."""
    epsilon: float
    delta: float


class DataSets:
    """The data sets of these books.

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
            name = _named(marks, key)
            if self._db.execute("SELECT 1 FROM kin WHERE one = ?", (name,)).fetchone() is None:
                held = ((mark, name) for mark in marks)
                self._db.executemany("INSERT INTO images VALUES (?, ?)", held)
                related = {row[0] for row in self._db.execute(RELATED, (name,))} | {name}
                known = {row[0] for row in self._db.execute("SELECT DISTINCT one FROM kin")}
                related |= known & {_named((), key)} if marks else known
                pairs = {pair for other in related for pair in ((name, other), (other, name))}
                self._db.executemany("INSERT INTO kin VALUES (?, ?)", pairs)
        return name

    def spending(self, data_set: str) -> Spending:
        """What was told of a data set and its kin.

        Raises:
            DataError: the books cannot be read.
        """
        with self._using():
            return self.within(data_set)

    def within(self, data_set: str) -> Spending:
        """The same, in the caller's transaction."""
        return self._spending(data_set, KIN)

    def each(self) -> dict[str, Spending]:
        """What was told of every data set by itself, for the owner to see.

        Raises:
            DataError: the books cannot be read.
        """
        with self._using():
            names = [row[0] for row in self._db.execute(TOLD_OF)]
            return {name: self._spending(name, ALONE) for name in names}

    def _spending(self, data_set: str, whose: str) -> Spending:
        rho = dict(self._db.execute(NOISY.format(whose), (data_set,)))
        trained = self._db.execute(TRAINED.format(whose), (data_set,)).fetchall()
        told = self._db.execute(UNPROMISED.format(whose), (data_set,)).fetchone()[0] or 0
        whole = sum(micro_rho for mode, micro_rho in rho.items() if mode in WHOLE)
        return Spending(sum(rho.values()) - whole, whole, tuple(trained), told)


def _named(marks: Iterable[bytes], key: bytes) -> str:
    return blake2b(b"".join(marks), key=key, digest_size=NAME).hexdigest()
