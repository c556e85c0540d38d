"""Privacy accounts of private data sets: which sets share samples, and what each has spent.

A data set has a lasting name, made of its samples under a key that never leaves the ledger. The
teacher does not matter for it. Two data sets that share a sample are related, and what is charged
to one counts for the other too: one sample more or less gives no new budget, and a sample in
several sets is never charged more than one budget. The samples of an external teacher are unknown
and may be any, so such a data set is related to all.
"""

import sqlite3
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from hashlib import blake2b

from fedkd.client.ledger.hash_chain import ANSWERED, TRAINING
from fedkd.privacy import MODES, Spending

NAME_BYTES = 8
"""Length of a data set's name."""
WHOLE_SET_MODES = frozenset(name for name, mode in MODES.items() if mode.protects_data_set)
"""Release modes whose charges protect the whole data set."""
SHARING_A_SAMPLE = """
SELECT DISTINCT theirs.data_set FROM images AS own JOIN images AS theirs USING (digest)
WHERE own.data_set = ?
"""
RELATED = "data_set IN (SELECT other FROM kin WHERE one = ?)"
ALONE = "data_set = ?"
RHO_BY_MODE = "SELECT mode, SUM(micro_rho) FROM entries WHERE micro_rho > 0 AND {} GROUP BY mode"
TRAININGS = f"""
SELECT epsilon, delta FROM entries
WHERE kind = '{TRAINING}' AND decision = '{ANSWERED}' AND {{}} ORDER BY sequence
"""
UNPROMISED = "SELECT SUM(cost) FROM entries WHERE mode = 'none' AND cost > 0 AND {}"
ALL_NAMES = "SELECT DISTINCT data_set FROM entries WHERE data_set <> '' ORDER BY data_set"


@dataclass(frozen=True)
class DpTraining:
    """One training with differential privacy, charged by its target (epsilon, delta)."""

    key: str
    """Identifies this training alone; its teacher is cached under it."""
    epsilon: float
    delta: float


class DatasetPrivacySpending:
    """The privacy accounts of all data sets in one ledger.

    Args:
        db: connection to the ledger's file.
        transaction: opens a transaction; raises `DataError` where the ledger cannot be used.
    """

    def __init__(
        self, db: sqlite3.Connection, transaction: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self._db, self._transaction = db, transaction

    def register(self, samples: Iterable[bytes]) -> str:
        """The name of the data set with these sample digests; related sets are found once.

        Without samples: all teachers whose training data are unknown share one name.

        Raises:
            DataError: the ledger cannot be written.
        """
        with self._transaction():
            (key,) = self._db.execute("SELECT key FROM secret").fetchone()
            digests = sorted({blake2b(s, key=key, digest_size=16).digest() for s in samples})
            name = _name(digests, key)
            if self._db.execute("SELECT 1 FROM kin WHERE one = ?", (name,)).fetchone() is None:
                rows = ((digest, name) for digest in digests)
                self._db.executemany("INSERT INTO images VALUES (?, ?)", rows)
                related = {row[0] for row in self._db.execute(SHARING_A_SAMPLE, (name,))} | {name}
                known = {row[0] for row in self._db.execute("SELECT DISTINCT one FROM kin")}
                related |= known & {_name((), key)} if digests else known
                pairs = {pair for other in related for pair in ((name, other), (other, name))}
                self._db.executemany("INSERT INTO kin VALUES (?, ?)", pairs)
        return name

    def spending(self, data_set: str) -> Spending:
        """What was spent on a data set and on those related to it.

        Raises:
            DataError: the ledger cannot be read.
        """
        with self._transaction():
            return self.spending_in_transaction(data_set)

    def spending_in_transaction(self, data_set: str) -> Spending:
        """As `spending`, in the caller's transaction."""
        return self._spending(data_set, RELATED)

    def all_spending(self) -> dict[str, Spending]:
        """What was spent on every data set by itself, for the owner to see.

        Raises:
            DataError: the ledger cannot be read.
        """
        with self._transaction():
            names = [row[0] for row in self._db.execute(ALL_NAMES)]
            return {name: self._spending(name, ALONE) for name in names}

    def _spending(self, data_set: str, condition: str) -> Spending:
        rho = dict(self._db.execute(RHO_BY_MODE.format(condition), (data_set,)))
        trained = self._db.execute(TRAININGS.format(condition), (data_set,)).fetchall()
        unpromised = self._db.execute(UNPROMISED.format(condition), (data_set,)).fetchone()[0] or 0
        whole = sum(micro_rho for mode, micro_rho in rho.items() if mode in WHOLE_SET_MODES)
        return Spending(sum(rho.values()) - whole, whole, tuple(trained), unpromised)


def _name(digests: Iterable[bytes], key: bytes) -> str:
    return blake2b(b"".join(digests), key=key, digest_size=NAME_BYTES).hexdigest()
