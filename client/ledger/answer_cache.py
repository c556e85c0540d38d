"""What an owner has paid for with privacy: noisy answers, which are told again and not drawn again.

A table of his books beside the journal. It knows no policy and no teacher.
"""

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from fedkd.privacy.budget import Spending

FOUND = "SELECT told FROM answers WHERE row = ?"


@dataclass(frozen=True)
class Price:
    """What a question costs in privacy."""

    rows: tuple[bytes, ...]
    """One key an image: equal where the same answer is due."""
    each: int
    """Micro-rho of a row that has no answer yet, >= 1."""
    limit: Callable[[Spending], int]
    """Micro-rho that may be charged to the images in all, from what was told of them before."""


class Paid:
    """Answers that were kept.

    Args:
        db: of the books.
        using: a transaction of their own, raising `DataError` where the books cannot be used.
    """

    def __init__(
        self, db: sqlite3.Connection, using: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self._db, self._using = db, using

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
