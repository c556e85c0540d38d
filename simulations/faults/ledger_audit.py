"""Compare institutions' ledgers with coordinators' journals: lost, uncharged, doubled answers.

Both are read by code of their own, so that a defect of the code that writes them is not repeated:
SQLite's tables as they are, the journal frame by frame. Only the hash chain of a ledger is
recomputed by its own `verify`.
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
from fedkd.wire.reply_replay import FILE_HEADER, FRAME_LENGTH, JOINED

CHARGED_DECISION = "answered"
"""Decision in a ledger that charges; each content has it once."""
REPEAT_DECISION = "repeat"
"""Decision in a ledger on what was charged before."""
ANSWERED_DECISIONS = (CHARGED_DECISION, REPEAT_DECISION)
"""Decisions in a ledger after which an answer is released."""
TIMEOUT_REASON = "no answer within"
"""Start of the reason that a coordinator records for an institution that answered too late."""


@dataclass(frozen=True)
class LedgerRow:
    """A row of a ledger: the columns that this audit reads.

    A row of repeats or refusals may stand for many queries, of one minute: its count is the sum of
    theirs, its digest that of the last.
    """

    sequence: int
    digest: str
    decision: str
    count: int
    cost: int


@dataclass(frozen=True)
class JournalEntry:
    """A query in the coordinator's journal.

    Attributes:
        digest: of the request.
        answered: institutions whose answer was recorded.
        missing: reason why others' answers were not, by institution.
        counted: answers that the coordinator had received from each by then.
        seconds: of the run by then.
    """

    digest: bytes
    answered: frozenset[str]
    missing: dict[str, str]
    counted: dict[str, int]
    seconds: float


def ledger_rows(ledger: Path, after: int = 0) -> list[LedgerRow]:
    """Rows of an institution's ledger whose sequence number is above ``after``."""
    columns = "sequence, digest, decision, count, cost"
    with closing(sqlite3.connect(f"{ledger.absolute().as_uri()}?mode=ro", uri=True)) as db:
        query = f"SELECT {columns} FROM entries WHERE sequence > ? ORDER BY sequence"
        return [LedgerRow(*row) for row in db.execute(query, (after,))]


def row_count(ledger: Path) -> int:
    """Number of rows of an institution's ledger."""
    with closing(sqlite3.connect(f"{ledger.absolute().as_uri()}?mode=ro", uri=True)) as db:
        return int(db.execute("SELECT COUNT(*) FROM entries").fetchone()[0])


def read_journal(path: Path) -> list[JournalEntry]:
    """Every completely written query of a run that was started with ``--record``.

    Raises:
        ValueError: the file is no journal.
    """
    content, at, frames = path.read_bytes(), 0, []
    while at + FRAME_LENGTH.size <= len(content):
        size = FRAME_LENGTH.unpack_from(content, at)[0]
        if at + FRAME_LENGTH.size + size > len(content):
            break
        frames.append(content[at + FRAME_LENGTH.size : at + FRAME_LENGTH.size + size])
        at += FRAME_LENGTH.size + size
    if not frames or frames[0] != FILE_HEADER:
        raise ValueError(f"{path} is no journal")
    rest = iter(frames[3 + int.from_bytes(frames[2], "little") :])
    entries = []
    with suppress(StopIteration):  # the last query may be incomplete on the disk
        for digest in rest:
            replies = [
                (next(rest), next(rest)) for _ in range(int.from_bytes(next(rest), "little"))
            ]
            outcome = json.loads(next(rest))
            next(rest)  # the checksum
            note = outcome["note"]
            counted = {name: counts.get("answers", 0) for name, counts in note["counted"].items()}
            missing = {name: reason for name, (_, reason) in outcome["lost"].items()}
            answered = frozenset(name.decode() for name, _ in replies if name != JOINED)
            entries.append(JournalEntry(digest, answered, missing, counted, note["seconds"]))
    return entries


def ledger_digest(digest: bytes, fingerprint: bytes) -> str:
    """The digest of a request as a ledger stores it: keyed by the fingerprint of the teacher."""
    return hashlib.blake2b(digest, key=fingerprint, digest_size=16).hexdigest()


def double_charges(rows: Sequence[LedgerRow]) -> int:
    """Number of contents that one institution charged more than once, or at a wrong price.

    ``rows`` are all rows of its ledger. Each content costs its number of images, once; a repeat and
    a refusal cost nothing, however many queries a row of them stands for.
    """
    charged = Counter(row.digest for row in rows if row.cost or row.decision == CHARGED_DECISION)
    twice = sum(times - 1 for times in charged.values())
    wrong = sum(row.cost != (row.count if row.decision == CHARGED_DECISION else 0) for row in rows)
    return max(twice, wrong)


def lost_answers(
    name: str,
    fingerprint: bytes,
    rows: Sequence[LedgerRow],
    journal: Sequence[JournalEntry],
    linger: float,
    earlier: Sequence[JournalEntry] = (),
) -> list[str]:
    """Answers that an institution released in a run, and that its journal neither has nor explains.

    Each query that the ledger says was answered must be in the journal, with the answer or the
    reason why it is missing. A timeout is a reason only where the query took at least as long as
    late answers are waited for; it explains one received answer that was dropped.

    Of the repeats that share a row, the ledger has the last one's digest, so only that one is
    looked up. The others were charged by a row of their own, and where the coordinator received
    their answers, its counts show those that it dropped.

    Args:
        name: of the institution.
        fingerprint: of its teacher.
        rows: of its ledger, in this run.
        journal: of this run.
        linger: seconds that late answers are waited for.
        earlier: journals of the runs before, whose queries may be read late.

    Returns:
        One line for each lost answer.
    """
    known = {ledger_digest(entry.digest, fingerprint): entry for entry in (*earlier, *journal)}
    found = []
    for row in rows:
        if row.decision not in ANSWERED_DECISIONS:
            continue
        entry = known.get(row.digest)
        if entry is None:
            found.append(f"{name}, row {row.sequence}: answered, but the query is not known")
        elif name not in entry.answered and name not in entry.missing:
            found.append(f"{name}, row {row.sequence}: answered, but neither recorded nor missing")
    return found + premature_timeouts(name, journal, linger) + dropped_answers(name, journal)


def premature_timeouts(name: str, journal: Sequence[JournalEntry], linger: float) -> list[str]:
    """Queries at which an institution was called late before its time was over."""
    found, previous = [], 0.0
    for number, entry in enumerate(journal, 1):
        late = entry.missing.get(name, "").startswith(TIMEOUT_REASON)
        if late and 0 <= entry.seconds - previous < linger:
            found.append(f"{name}, query {number}: not waited for")
        previous = entry.seconds
    return found


def dropped_answers(name: str, journal: Sequence[JournalEntry]) -> list[str]:
    """Answers that were received but are neither recorded nor called late; one line for each."""
    received = journal[-1].counted.get(name, 0) if journal else 0
    recorded = sum(name in entry.answered for entry in journal)
    late = sum(entry.missing.get(name, "").startswith(TIMEOUT_REASON) for entry in journal)
    line = f"{name}: {received} answers received, {recorded} recorded, {late} late"
    return [line] * max(0, received - recorded - late)


def uncharged_answers(
    name: str, fingerprint: bytes, rows: Sequence[LedgerRow], journal: Sequence[JournalEntry]
) -> int:
    """Number of answers in a journal that the institution's ledger has not charged."""
    charged = {row.digest for row in rows if row.decision == CHARGED_DECISION}
    return sum(
        name in entry.answered and ledger_digest(entry.digest, fingerprint) not in charged
        for entry in journal
    )


def chain_error(ledger: Path) -> str:
    """Why the hash chain of a ledger does not verify; "" where it does."""
    try:
        with closing(Ledger(ledger)) as opened:
            opened.verify()
    except DataError as error:
        return str(error)
    return ""
