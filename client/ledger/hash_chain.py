"""The rows of an owner's books, and how each hangs on the one before. Knows no file and no policy.

A row holds the hash of the row before it, so that none can be changed, taken out or put in between
unless all that follow are written anew.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import NamedTuple

from fedkd.errors import DataError
from fedkd.protocol.signals import Ask, PullBack

ANSWERED, REPEAT, REFUSED = "answered", "repeat", "refused"
"""What may be decided of a question."""
EXAMINATION, TRAINING = "examination", "training"
"""Kinds of rows that are no questions about images: a student sat the private test, a teacher was
trained with differential privacy."""


@dataclass(frozen=True)
class Entry:
    """One row: a question, or what else is counted, and what was decided of it."""

    time: str
    """UTC, ISO 8601 with microseconds."""
    server: str
    """host:port that asked, "" in simulations."""
    kind: str
    """ask, pull_back, examination or training."""
    signals: str
    """Their names, sorted, with a space between them."""
    count: int
    """Images of the question; 0 where it is none."""
    digest: str
    """Of what was asked, and of which teacher; the key of a training; "" where it was not read."""
    sequence: int = 0
    """1, 2, 3, ..."""
    decision: str = REFUSED
    """answered, repeat or refused."""
    reason: str = ""
    """Of a refusal."""
    cost: int = 0
    """Samples charged."""
    micro_rho: int = 0
    """Millionths of zCDP charged; of a repeat too, where an answer that was paid for was lost."""
    epsilon: float = 0.0
    """Charged for a training; 0 of any other row."""
    delta: float = 0.0
    """Likewise."""
    data_set: str = ""
    """Private images that the answer tells of; "" where nobody said."""
    mode: str = ""
    """Of the policy that decided, see `fedkd.privacy.release_policy.MODES`; "" where none was asked."""
    before: int = 0
    """Samples spent before it."""
    after: int = 0
    """Samples spent with it."""
    previous: str = ""
    """Hash of the row before; "" at the first."""
    hash: str = ""
    """Of all the above, blake2b in hexadecimal."""

    def following(self, question: "Entry", decision: str, reason: str = "") -> "Entry":
        """The row after this one."""
        cost = question.count if decision == ANSWERED else 0
        row = replace(
            question,
            sequence=self.sequence + 1,
            decision=decision,
            reason=reason,
            cost=cost,
            micro_rho=0 if decision == REFUSED else question.micro_rho,
            epsilon=0.0 if decision == REFUSED else question.epsilon,
            delta=0.0 if decision == REFUSED else question.delta,
            before=self.after,
            after=self.after + cost,
            previous=self.hash,
        )
        return replace(row, hash=row.sealed())

    def sealed(self) -> str:
        """The hash that belongs to what stands here."""
        said = [value for name, value in vars(self).items() if name != "hash"]
        # A column that was tampered with may hold what JSON does not know.
        text = json.dumps(said, separators=(",", ":"), default=repr)
        return hashlib.blake2b(text.encode(), digest_size=32).hexdigest()


BEGINNING = Entry("", "", "", "", 0, "")
"""What the first row follows."""


class Head(NamedTuple):
    """Where the log ends. An owner who writes it down elsewhere can hold the log against it."""

    sequence: int
    hash: str


@dataclass(frozen=True)
class Spent:
    """What stands in the books, in samples; ``refused`` in questions, ``examined`` in students."""

    asked: int = 0
    pulled_back: int = 0
    refused: int = 0
    examined: int = 0

    @property
    def samples(self) -> int:
        """Everything that counts against the policy's cap."""
        return self.asked + self.pulled_back


def followed(rows: Iterable[Entry], *marks: Head) -> Iterator[Entry]:
    """The same rows, once each is found to hold.

    Args:
        rows: all, from the first.
        marks: ends that must lie on the way.

    Raises:
        DataError: naming the first row that does not hold.
    """
    last = BEGINNING
    charged: set[str] = set()
    for row in rows:
        if objection := _objection(row, last, charged):
            raise DataError(f"row {last.sequence + 1} {objection}")
        if any(mark.sequence == row.sequence and mark.hash != row.hash for mark in marks):
            raise DataError(f"row {row.sequence} is not the one that was noted")
        if row.decision == ANSWERED:
            charged.add(row.digest)
        last = row
        yield row
    if any(mark.sequence > last.sequence for mark in marks):
        raise DataError(f"row {last.sequence + 1} and what follows it are missing")


def _objection(row: Entry, last: Entry, charged: set[str]) -> str | None:
    """Why ``row`` cannot follow ``last``; None where it can."""
    if row.sequence != last.sequence + 1:
        return "is missing"
    if row.hash != row.sealed():
        return "was changed"
    if row.previous != last.hash:
        return "does not follow the row before it"
    # From here on the hash is right: only a chain that was written anew gets this far.
    if row.decision not in (ANSWERED, REPEAT, REFUSED) or not (
        _count(row.count) and _count(row.micro_rho) and _promise(row)
    ):
        return "is none that a ledger writes"
    if row != last.following(row, row.decision, row.reason):
        return "does not charge what its question costs"
    if row.decision != REFUSED and (row.digest in charged) != (row.decision == REPEAT):
        return "charges a repeat, or repeats what was never charged"
    return None


def _count(value: object) -> bool:
    return isinstance(value, int) and value >= 0


def _promise(row: Entry) -> bool:
    """Whether a training that was begun is charged, and nothing else is charged as one."""
    numbers = (row.epsilon, row.delta)
    if row.kind == TRAINING and row.decision == ANSWERED:
        return all(isinstance(number, float) and number > 0 for number in numbers)
    return numbers == (0.0, 0.0)


def entry_of(
    request: Ask | PullBack,
    server: str,
    now: datetime,
    content: str,
    data_set: str = "",
    mode: str = "",
) -> Entry:
    """The row of a question, before anything is decided: what was asked, by whom, of what, when."""
    signals = request.signals if isinstance(request, Ask) else request.cotangents
    count = len(request.images) if request.images.dim() else 0
    return Entry(
        written(now),
        server,
        "ask" if isinstance(request, Ask) else "pull_back",
        " ".join(sorted(signals)),
        count,
        content,
        data_set=data_set,
        mode=mode,
    )


def written(moment: datetime) -> str:
    """A moment as rows have it: UTC, in an order that text keeps."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")
