"""What is left in the books after a run: the institutions' ledgers and the coordinator's journal.

Knows no process. Both are read by means of their own, so that a defect of what wrote them is not
repeated by what reads them: SQLite's tables as they stand, the journal frame by frame. Only the
chain of a ledger's rows is recomputed by its own `verify`.
"""

import hashlib
import json
import sqlite3
from collections import Counter
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from fedkd.client.ledger.ledger import Ledger
from fedkd.errors import DataError
from fedkd.wire.recording import FRAME, KIND, NEW

GIVEN = ("answered", "repeat")
"""Decisions after which an answer is given."""
LATE = "no answer within"
"""How the reason begins of whoever was waited for, and did not answer in time."""


@dataclass(frozen=True)
class Row:
    """A row of a ledger, as far as it matters here."""

    sequence: int
    digest: str
    decision: str
    count: int
    cost: int


@dataclass(frozen=True)
class Asked:
    """A question of the journal.

    Attributes:
        digest: of what was asked.
        answered: who did.
        missing: why others did not.
        counted: answers that the coordinator had received of each by then.
        seconds: of the run by then.
    """

    digest: bytes
    answered: frozenset[str]
    missing: dict[str, str]
    counted: dict[str, int]
    seconds: float


def rows(ledger: Path, after: int = 0) -> list[Row]:
    """Of an institution's books, those behind row ``after``."""
    columns = "sequence, digest, decision, count, cost"
    with closing(sqlite3.connect(f"{ledger.absolute().as_uri()}?mode=ro", uri=True)) as db:
        said = f"SELECT {columns} FROM entries WHERE sequence > ? ORDER BY sequence"
        return [Row(*row) for row in db.execute(said, (after,))]


def journal(path: Path) -> list[Asked]:
    """Every question that was kept whole, of a run that was begun with ``--record``.

    Raises:
        ValueError: it is no journal.
    """
    content, at, frames = path.read_bytes(), 0, []
    while at + FRAME.size <= len(content):
        size = FRAME.unpack_from(content, at)[0]
        if at + FRAME.size + size > len(content):
            break
        frames.append(content[at + FRAME.size : at + FRAME.size + size])
        at += FRAME.size + size
    if not frames or frames[0] != KIND:
        raise ValueError(f"{path} is no journal")
    rest = iter(frames[3 + int.from_bytes(frames[2], "little") :])
    asked = []
    with suppress(StopIteration):  # the last question may be on its way to the disk
        for digest in rest:
            said = [(next(rest), next(rest)) for _ in range(int.from_bytes(next(rest), "little"))]
            told = json.loads(next(rest))
            next(rest)  # the seal
            counted = {name: of.get("answers", 0) for name, of in told["note"]["counted"].items()}
            missing = {name: reason for name, (_, reason) in told["lost"].items()}
            answered = frozenset(name.decode() for name, _ in said if name != NEW)
            asked.append(Asked(digest, answered, missing, counted, told["note"]["seconds"]))
    return asked


def content(digest: bytes, mark: bytes) -> str:
    """What a ledger calls a question of this digest, where a teacher of this mark is asked."""
    return hashlib.blake2b(digest, key=mark, digest_size=16).hexdigest()


def double_charges(books: Sequence[Row]) -> int:
    """Questions of one institution that were charged more than once, or otherwise than once.

    ``books`` are all its rows. Each content is to be charged its number of images, and once.
    """
    charged = Counter(row.digest for row in books if row.cost or row.decision == "answered")
    twice = sum(times - 1 for times in charged.values())
    due = {row.digest: row.count for row in books if row.decision in GIVEN}
    wrong = sum(row.cost for row in books) != sum(due.values())
    return max(twice, int(wrong))


def lost(
    name: str,
    mark: bytes,
    books: Sequence[Row],
    told: Sequence[Asked],
    linger: float,
    earlier: Sequence[Asked] = (),
) -> list[str]:
    """Answers that an institution gave in a run and that the run neither kept nor explains.

    Every question that the ledger says was answered must stand in the journal, with the answer or
    with the reason why it was not waited for. "Late" is a reason only where the question took at
    least as long as the late ones are given, and it explains one answer that came and was dropped.

    Args:
        name: of the institution.
        mark: of its teacher.
        books: its rows of this run.
        told: the run's journal.
        linger: seconds that late ones have.
        earlier: journals of the runs before it, whose questions may be read late.

    Returns:
        One line for each.
    """
    known = {content(asked.digest, mark): asked for asked in (*earlier, *told)}
    found = []
    for row in books:
        if row.decision not in GIVEN:
            continue
        asked = known.get(row.digest)
        if asked is None:
            found.append(f"{name}, row {row.sequence}: answered, and no such question is known")
        elif name not in asked.answered and name not in asked.missing:
            found.append(f"{name}, row {row.sequence}: answered, and neither kept nor missed")
    return found + hasty(name, told, linger) + dropped(name, told)


def hasty(name: str, told: Sequence[Asked], linger: float) -> list[str]:
    """Questions at which somebody was called late before his time was over."""
    found, before = [], 0.0
    for number, asked in enumerate(told, 1):
        late = asked.missing.get(name, "").startswith(LATE)
        if late and 0 <= asked.seconds - before < linger:
            found.append(f"{name}, question {number}: not waited for")
        before = asked.seconds
    return found


def dropped(name: str, told: Sequence[Asked]) -> list[str]:
    """More answers that came than were kept, or were late."""
    came = told[-1].counted.get(name, 0) if told else 0
    kept = sum(name in asked.answered for asked in told)
    late = sum(asked.missing.get(name, "").startswith(LATE) for asked in told)
    return [f"{name}: {came} answers came, {kept} kept, {late} late"] * max(0, came - kept - late)


def uncharged(name: str, mark: bytes, books: Sequence[Row], told: Sequence[Asked]) -> int:
    """Answers in a journal that the institution's books know nothing of."""
    given = {row.digest for row in books if row.decision in GIVEN}
    return sum(name in a.answered and content(a.digest, mark) not in given for a in told)


def objection(ledger: Path) -> str:
    """Why an institution's chain of rows does not hold together; "" where it does."""
    try:
        with closing(Ledger(ledger)) as books:
            books.verify()
    except DataError as error:
        return str(error)
    return ""
