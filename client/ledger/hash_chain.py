"""Ledger entries linked in a hash chain: create, hash and verify.

An entry holds the hash of the entry before it. So none can be changed, removed or inserted unless
all that follow are rewritten.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import NamedTuple

from fedkd.errors import DataError
from fedkd.protocol import Ask, PullBack

ANSWERED, REPEAT, REFUSED = "answered", "repeat", "refused"
"""Decisions about a query."""
EXAMINATION, TRAINING, RESET = "examination", "training", "reset"
"""Kinds of entries that are no queries about samples: a student was evaluated on the private
test data, a teacher was trained with differential privacy, the owner goes on without charges that
were lost."""


@dataclass(frozen=True)
class Entry:
    """One entry: a query, an evaluation or a training, and the decision about it."""

    time: str
    """UTC, ISO 8601 with microseconds."""
    server: str
    """host:port that asked, "" in simulations."""
    kind: str
    """ask, pull_back, examination, training or reset."""
    signals: str
    """Their names, sorted, with a space between them."""
    count: int
    """Samples of the query, or of all `queries`; 0 where it is none."""
    digest: str
    """Digest of the query and the teacher, of the last one where there are several; the key of a
    training; "" where it was not read."""
    sequence: int = 0
    """1, 2, 3, ..."""
    decision: str = REFUSED
    """answered, repeat or refused."""
    reason: str = ""
    """Of a refusal."""
    cost: int = 0
    """Samples charged."""
    micro_rho: int = 0
    """Millionths of zCDP charged; for a repeat too, where an answer was charged and then lost."""
    epsilon: float = 0.0
    """Charged for a training; 0 for any other entry."""
    delta: float = 0.0
    """Likewise."""
    data_set: str = ""
    """The private data set that the charge is for; "" where it is not known."""
    mode: str = ""
    """Release mode of the policy that decided; "" where no policy was asked."""
    queries: int = 1
    """Uncharged queries in this entry, see `repeat_and_refusal_aggregation`; else 1."""
    before: int = 0
    """Samples charged before this entry."""
    after: int = 0
    """Samples charged with this entry."""
    previous: str = ""
    """Hash of the entry before; "" at the first."""
    hash: str = ""
    """blake2b of all the above, in hexadecimal."""

    def successor(self, query: "Entry", decision: str, reason: str = "") -> "Entry":
        """The entry after this one: `query` with a decision, charged and hashed."""
        cost = query.count if decision == ANSWERED else 0
        row = replace(
            query,
            sequence=self.sequence + 1,
            decision=decision,
            reason=reason,
            cost=cost,
            micro_rho=0 if decision == REFUSED else query.micro_rho,
            epsilon=0.0 if decision == REFUSED else query.epsilon,
            delta=0.0 if decision == REFUSED else query.delta,
            before=self.after,
            after=self.after + cost,
            previous=self.hash,
        )
        return replace(row, hash=row.computed_hash())

    def computed_hash(self) -> str:
        """The hash of this entry's content."""
        # Entries of before version 4 have no `queries`, and keep their hash.
        without = ("hash", "queries") if self.queries == 1 else ("hash",)
        content = [value for name, value in vars(self).items() if name not in without]
        # A column that was tampered with may hold what JSON does not know.
        text = json.dumps(content, separators=(",", ":"), default=repr)
        return hashlib.blake2b(text.encode(), digest_size=32).hexdigest()


GENESIS = Entry("", "", "", "", 0, "")
"""The empty entry that the first one follows."""


class Head(NamedTuple):
    """The last entry's number and hash. An owner who writes it down can verify against it later."""

    sequence: int
    hash: str


@dataclass(frozen=True)
class LedgerTotals:
    """Totals: samples asked and pulled back, queries refused, students evaluated."""

    asked: int = 0
    pulled_back: int = 0
    refused: int = 0
    examined: int = 0

    @property
    def samples(self) -> int:
        """All samples that count against the policy's cap."""
        return self.asked + self.pulled_back


def verified_chain(rows: Iterable[Entry], *heads: Head) -> Iterator[Entry]:
    """The same entries, each after it was verified.

    Args:
        rows: all entries, from the first.
        heads: heads that were noted earlier and must be met on the way.

    Raises:
        DataError: naming the first entry that fails.
    """
    last = GENESIS
    charged: set[str] = set()
    for row in rows:
        if fault := _fault(row, last, charged):
            raise DataError(f"row {last.sequence + 1} {fault}")
        if any(head.sequence == row.sequence and head.hash != row.hash for head in heads):
            raise DataError(f"row {row.sequence} is not the one that was noted")
        if row.decision == ANSWERED:
            charged.add(row.digest)
        last = row
        yield row
    if any(head.sequence > last.sequence for head in heads):
        raise DataError(f"row {last.sequence + 1} and what follows it are missing")


def _fault(row: Entry, last: Entry, charged: set[str]) -> str | None:
    """Why ``row`` cannot follow ``last``; None where it can."""
    if row.sequence != last.sequence + 1:
        return "is missing"
    if row.hash != row.computed_hash():
        return "was changed"
    if row.previous != last.hash:
        return "does not follow the row before it"
    # From here on the hash is right: only a chain that was rewritten gets this far.
    if row.decision not in (ANSWERED, REPEAT, REFUSED) or not (
        _is_count(row.count)
        and _is_count(row.micro_rho)
        and _training_charge_fits(row)
        and _is_query_count(row)
    ):
        return "is none that a ledger writes"
    if row != last.successor(row, row.decision, row.reason):
        return "does not charge what its query costs"
    if row.decision != REFUSED and (row.digest in charged) != (row.decision == REPEAT):
        return "charges a repeat, or repeats what was never charged"
    return None


def _is_count(value: object) -> bool:
    return isinstance(value, int) and value >= 0


def _is_query_count(row: Entry) -> bool:
    """Whether the entry stands for one query, or for several that were not charged."""
    free = row.decision != ANSWERED and row.micro_rho == 0
    return _is_count(row.queries) and (row.queries == 1 or (free and row.queries > 1))


def _training_charge_fits(row: Entry) -> bool:
    """Whether a training that was begun has a charge, and no other entry has one."""
    numbers = (row.epsilon, row.delta)
    if row.kind == TRAINING and row.decision == ANSWERED:
        return all(isinstance(number, float) and number > 0 for number in numbers)
    return numbers == (0.0, 0.0)


def query_entry(
    request: Ask | PullBack,
    server: str,
    now: datetime,
    content_digest: str,
    data_set: str = "",
    mode: str = "",
) -> Entry:
    """The entry of a query before the decision: who asked what, when, about which data set."""
    signals = request.signals if isinstance(request, Ask) else request.cotangents
    count = len(request.images) if request.images.dim() else 0
    return Entry(
        timestamp(now),
        server,
        "ask" if isinstance(request, Ask) else "pull_back",
        " ".join(sorted(signals)),
        count,
        content_digest,
        data_set=data_set,
        mode=mode,
    )


def timestamp(moment: datetime) -> str:
    """A moment as entries store it: UTC, in text that sorts by time."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")
