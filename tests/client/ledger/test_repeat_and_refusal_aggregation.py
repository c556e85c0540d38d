"""Repeats and refusals are one entry a minute and kind: no coordinator fills the disk with them."""

import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch

from fedkd.client.ledger.answer_cache import PrivacyCost
from fedkd.client.ledger.hash_chain import LedgerTotals
from fedkd.client.ledger.ledger import Ledger
from fedkd.client.monitoring.terminal_formatting import format_entry
from fedkd.errors import DataError
from fedkd.privacy import Policy
from fedkd.protocol import Ask, Reason, Refusal

OPEN, SPENT = Policy(), Policy(samples=2)
WHY = Refusal(Reason.MALFORMED, "of no shape")


def ask(number: int) -> Ask:
    return Ask(torch.full((2, 1, 2, 2), number % 256, dtype=torch.uint8))


class Clocks:
    """A wall clock and a monotonic one that go on together."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def wall(self) -> datetime:
        return datetime(2026, 3, 1, 12, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def ledger(self, path: Path | None = None) -> Ledger:
        return Ledger(path, durable=False, clock=self.wall, monotonic=lambda: self.seconds)


def rows(ledger: Ledger) -> list[tuple[str, str, int, int, int]]:
    return [(e.decision, e.reason, e.queries, e.count, e.cost) for e in ledger.entries()]


def test_thousands_of_free_queries_are_a_row_a_minute_and_kind() -> None:
    clocks = Clocks()
    ledger = clocks.ledger()
    assert ledger.charge(ask(1), SPENT, "hub:1") is None
    for _ in range(600):  # five minutes
        clocks.seconds += 0.5
        assert ledger.charge(ask(1), SPENT, "hub:1") is None
        refused = ledger.charge(ask(2), SPENT, "hub:1")
        assert refused is not None
        assert refused.reason is Reason.SPENT
        ledger.record_refusal(ask(3), WHY, "hub:1")
    stored = ledger._db.execute("SELECT COUNT(*) FROM entries").fetchone()[0]
    assert stored <= 1 + 3 * 6
    assert ledger.totals == LedgerTotals(asked=2, refused=1200)
    found = rows(ledger)
    assert sum(q for decision, _, q, *_ in found if decision == "repeat") == 600
    assert sum(count for decision, _, _, count, _ in found if decision == "refused") == 2400
    assert sum(cost for *_, cost in found) == 2
    ledger.verify()


def test_the_first_is_written_at_once_and_servers_and_reasons_stay_apart() -> None:
    ledger = Clocks().ledger()
    for server in ("hub:1", "hub:2"):
        for _ in range(3):
            ledger.charge(ask(2), replace(SPENT, samples=0), server)
            ledger.record_refusal(ask(3), WHY, server)
    query = "SELECT server, reason, queries FROM entries"
    first = [(s, r, 1) for s in ("hub:1", "hub:2") for r in ("spent", "malformed")]
    assert ledger._db.execute(query).fetchall() == first
    ledger.head()
    assert sorted(ledger._db.execute(query).fetchall()[4:]) == sorted(
        (server, reason, 2) for server, reason, _ in first
    )


def test_a_kept_count_is_written_with_the_next_charge_or_at_the_end(tmp_path: Path) -> None:
    clocks, path = Clocks(), tmp_path / "ledger.sqlite"
    with closing(clocks.ledger(path)) as ledger:
        for _ in range(5):
            ledger.record_refusal(ask(3), WHY)
        clocks.seconds += 61
        ledger.charge(ask(1), OPEN)
        with closing(sqlite3.connect(path)) as other:
            found = other.execute("SELECT decision, queries FROM entries").fetchall()
        assert found == [("refused", 1), ("refused", 4), ("answered", 1)]
        ledger.record_refusal(ask(3), WHY)
        ledger.record_refusal(ask(3), WHY)
    with closing(clocks.ledger(path)) as later:
        assert [e.queries for e in later.entries()] == [1, 4, 1, 2]
        assert later.verify().sequence == 4


def test_a_repeat_that_costs_privacy_is_never_only_counted() -> None:
    ledger = Clocks().ledger()
    price = PrivacyCost((b"one", b"two"), 10, lambda spent: 1000)
    data_set = ledger.dataset_accounts.register([b"an image"])
    for _ in range(4):  # killed each time before the answers were cached
        assert ledger.charge(ask(1), OPEN, "", b"", price, data_set) is None
    assert [(e.decision, e.micro_rho, e.queries) for e in ledger.entries()] == [
        ("answered", 20, 1),
        *[("repeat", 20, 1)] * 3,
    ]


def test_the_number_of_queries_is_part_of_the_chain() -> None:
    ledger = Clocks().ledger()
    for _ in range(5):
        ledger.record_refusal(ask(3), WHY)
    ledger.verify()
    for number, queries in ((1, 2), (2, 1), (2, 5)):
        before = ledger._db.execute(
            "SELECT queries FROM entries WHERE sequence = ?", (number,)
        ).fetchone()
        change = "UPDATE entries SET queries = ? WHERE sequence = ?"
        ledger._db.execute(change, (queries, number))
        with pytest.raises(DataError, match=f"row {number} was changed"):
            ledger.verify()
        ledger._db.execute(change, (*before, number))
    ledger.verify()
    assert format_entry(vars(list(ledger.entries())[1])).endswith("refused malformed x4")


def test_a_ledger_of_version_3_opens_verifies_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with closing(Ledger(path)) as ledger:
        for number in (1, 2, 1):
            ledger.charge(ask(number), OPEN, "hub:1")
        head = ledger.head()
    with closing(sqlite3.connect(path)) as old:
        old.execute("ALTER TABLE entries DROP COLUMN queries")
        old.execute("PRAGMA user_version = 3")
    with closing(Ledger(path)) as first, closing(Ledger(path)) as second:
        assert first.verify(head) == head
        for _ in range(3):
            first.charge(ask(1), OPEN, "hub:1")
            second.record_refusal(ask(3), WHY)
        assert first.totals.samples == 4
    with closing(Ledger(path)) as ledger:
        assert ledger.verify(head).sequence == 7
        assert ledger.totals == LedgerTotals(asked=4, refused=3)
