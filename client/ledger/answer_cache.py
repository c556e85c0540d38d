"""Cache of noisy answers in the ledger's file: the same sample gets the same noise again, free.

New noise for an old sample would release more, so an answer that was charged is stored and reused.
"""

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from fedkd.privacy import Spending

FIND_ANSWER = "SELECT told FROM answers WHERE row = ?"


@dataclass(frozen=True)
class PrivacyCost:
    """What a query costs in privacy."""

    keys: tuple[bytes, ...]
    """One cache key for each sample; samples with the same key get the same answer."""
    per_answer: int
    """Micro-rho of a sample that has no cached answer yet, >= 1."""
    limit: Callable[[Spending], int]
    """Micro-rho that may be charged to the data set in all, given what was spent on it before."""


class AnswerCache:
    """The table of noisy answers.

    Args:
        db: connection to the ledger's file.
        transaction: opens a transaction; raises `DataError` where the ledger cannot be used.
    """

    def __init__(
        self, db: sqlite3.Connection, transaction: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self._db, self._transaction = db, transaction

    def get(self, keys: Sequence[bytes]) -> dict[bytes, Tensor]:
        """The cached answers under these keys, (W,) int64; keys without one are left out.

        Raises:
            DataError: the ledger cannot be read.
        """
        with self._transaction():
            found = {key: self._db.execute(FIND_ANSWER, (key,)).fetchone() for key in set(keys)}
        return {
            key: torch.frombuffer(bytearray(row[0]), dtype=torch.int64)
            for key, row in found.items()
            if row is not None
        }

    def store(self, keys: Sequence[bytes], answers: Tensor) -> None:
        """Store (n, W) int64 answers; an answer that another process stored first stays.

        Raises:
            DataError: the ledger cannot be written.
        """
        contents = (answer.numpy().tobytes() for answer in answers.contiguous())
        rows = zip(keys, contents, strict=True)
        with self._transaction():
            self._db.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?)", rows)

    def cost_of(self, cost: PrivacyCost) -> int:
        """Micro-rho of the distinct keys without an answer; runs in the caller's transaction."""
        missing = [
            key
            for key in set(cost.keys)
            if self._db.execute(FIND_ANSWER, (key,)).fetchone() is None
        ]
        return cost.per_answer * len(missing)
