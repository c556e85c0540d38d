"""The ledger charge once, before the answer, whoever races and whoever is killed; and they tell."""

import json
import logging
import multiprocessing
import sqlite3
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import fields, replace
from datetime import UTC, datetime, time, timedelta
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkd.client.ledger.dataset_privacy_spending import DpTraining
from fedkd.client.ledger.hash_chain import GENESIS, Entry, Head, LedgerTotals, verified_chain
from fedkd.client.ledger.ledger import NOT_RECORDED, Ledger
from fedkd.errors import DataError
from fedkd.privacy import Budget, Policy
from fedkd.protocol import Ask, PullBack, Reason, Refusal, Signal
from fedkd.simulations.checks.ledger_race import main, race

OPEN = Policy(frozenset(Signal), pull_back=True)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
WHY = Refusal(Reason.MALFORMED, "of no shape")


def ask(number: int, count: int = 2, exact: bool = False) -> Ask:
    """The same question for the same number."""
    return Ask(torch.full((count, 1, 2, 2), number % 256, dtype=torch.uint8), exact=exact)


def pull(number: int, count: int = 2) -> PullBack:
    return PullBack(ask(number, count).images, {Signal.LOGITS: torch.ones(count, 3)})


def filled(path: Path | None = None) -> Ledger:
    """Answered, repeated, refused of both kinds."""
    ledger = Ledger(path, durable=False)
    ledger.charge(ask(1), OPEN, "hub:1")
    ledger.charge(pull(1, 3), OPEN, "hub:2")
    ledger.charge(ask(1), OPEN, "hub:1")
    ledger.charge(ask(2), replace(OPEN, samples=5), "hub:1")
    ledger.record_refusal(ask(3), WHY)
    ledger.charge(ask(4, 1), OPEN)
    return ledger


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "ledger.sqlite"


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now


# --- what is charged


def test_every_question_is_a_row_that_says_what_was_asked_and_what_it_cost() -> None:
    ledger = filled()
    rows = [
        (e.sequence, e.server, e.kind, e.signals, e.count, e.decision, e.reason, e.cost, e.after)
        for e in ledger.entries()
    ]
    assert rows == [
        (1, "hub:1", "ask", "logits", 2, "answered", "", 2, 2),
        (2, "hub:2", "pull_back", "logits", 3, "answered", "", 3, 5),
        (3, "hub:1", "ask", "logits", 2, "repeat", "", 0, 5),
        (4, "hub:1", "ask", "logits", 2, "refused", "spent", 0, 5),
        (5, "", "ask", "logits", 2, "refused", "malformed", 0, 5),
        (6, "", "ask", "logits", 1, "answered", "", 1, 6),
    ]
    assert ledger.totals == LedgerTotals(asked=3, pulled_back=3, refused=2)
    assert ledger.totals.samples == 6
    assert ledger.verify() == ledger.head() == Head(6, list(ledger.entries())[-1].hash)


def test_the_same_question_is_charged_once_for_ever(path: Path) -> None:
    capped = replace(OPEN, samples=2)
    for _ in range(3):
        with closing(Ledger(path)) as ledger:
            assert ledger.charge(ask(7), capped) is None
            assert ledger.charge(ask(7), capped, "another:1") is None
            assert ledger.totals == LedgerTotals(asked=2)


def test_what_tells_something_new_is_no_repeat() -> None:
    ledger = Ledger(None)
    two = Ask(ask(7).images, frozenset({Signal.LOGITS, Signal.BN_GAP}))
    shaped = Ask(ask(7).images.view(2, 1, 1, 4))
    loud = PullBack(ask(7).images, {Signal.LOGITS: torch.full((2, 3), 2.0)})
    for each in (ask(7), ask(7, exact=True), ask(8), two, shaped, pull(7), loud):
        assert ledger.charge(each, OPEN) is None
    assert ledger.charge(ask(7), OPEN, teacher=b"trained anew") is None
    assert ledger.totals == LedgerTotals(asked=12, pulled_back=4)
    assert {e.decision for e in ledger.entries()} == {"answered"}


def test_a_repeat_obeys_all_that_the_policy_says_but_the_caps() -> None:
    ledger = Ledger(None)
    assert ledger.charge(pull(1), OPEN) is None
    refused = ledger.charge(pull(1), Policy())
    assert refused is not None
    assert refused.reason is Reason.FORBIDDEN
    assert ledger.charge(pull(1), replace(OPEN, samples=0, samples_per_hour=0)) is None


def test_a_rate_is_of_any_sixty_minutes() -> None:
    clock = Clock()
    ledger = Ledger(None, clock=clock, monotonic=lambda: clock.now.timestamp())
    slow = replace(OPEN, samples_per_hour=5)
    assert ledger.charge(ask(1), slow) is None
    clock.now += timedelta(minutes=50)
    assert ledger.charge(ask(2), slow) is None
    said = ledger.charge(ask(3), slow)
    assert said == Refusal(Reason.RATE, "asked about 2 images, 1 of 5 are left in this hour")
    assert ledger.charge(ask(2), slow) is None  # again
    clock.now += timedelta(minutes=10)  # the first are an hour old
    assert ledger.charge(ask(3), slow) is None
    assert ledger.charge(ask(4), slow) is not None
    clock.now -= timedelta(days=1)  # a clock that is set back gives nothing away
    assert ledger.charge(ask(4), slow) is not None


def sit(path: str, first: int, got: "multiprocessing.Queue[int]") -> None:
    """In a process of its own: thirty students want to be examined, ten of them everybody's."""
    with closing(Ledger(Path(path), durable=False)) as ledger:
        names = [*(f"shared {n}" for n in range(10)), *(f"own {first + n}" for n in range(20))]
        got.put(
            sum(ledger.charge_evaluation(name, Policy(examinations=15)) is None for name in names)
        )


def test_so_many_students_are_evaluated_whichever_process_is_asked(path: Path) -> None:
    context = multiprocessing.get_context(
        "forkserver"
    )  # a fork of threads that gRPC has started may hang
    got: multiprocessing.Queue[int] = context.Queue()
    processes = [context.Process(target=sit, args=(str(path), 20 * n, got)) for n in range(3)]
    for process in processes:
        process.start()
    passed = [got.get(timeout=30) for _ in processes]
    for process in processes:
        process.join(30)
    with closing(Ledger(path)) as ledger:  # and whenever: the ledger outlive all of them
        assert ledger.totals.examined == 15
        assert ledger.totals.samples == 0
        answered = sum(entry.decision == "answered" for entry in ledger.entries())
        repeats = sum(e.queries for e in ledger.entries() if e.decision == "repeat")
        assert (answered, sum(passed)) == (15, 15 + repeats)
        refusal = ledger.charge_evaluation("a new one", Policy(examinations=15))
        assert refusal == Refusal(Reason.SPENT, "all 15 examinations of students are spent here")
        assert ledger.charge_evaluation("a new one", Policy()) is None
        assert ledger.charge_evaluation("a new one", Policy(examinations=0)) is None, (
            "it sat before"
        )
        assert ledger.charge(ask(1), replace(OPEN, samples=2)) is None, "samples are not touched"
        ledger.verify()
        ledger.close()
        assert ledger.charge_evaluation("another", Policy()) == NOT_RECORDED


def test_so_much_is_trained_as_is_granted_whichever_thread_is_asked(path: Path) -> None:
    ledgers = [Ledger(path, durable=False) for _ in range(4)]
    word = Policy(mode="dp-teacher", budget=Budget(2.0, 1e-4))
    data_set = ledgers[0].dataset_accounts.register([b"an image"])
    start = threading.Barrier(4)

    def insist(who: int) -> int:
        start.wait(10)
        keys = [f"shared {n}" for n in range(3)] + [f"{who} {n}" for n in range(5)]
        return sum(
            ledgers[who].charge_trainings([DpTraining(key, 0.2, 1e-6)], data_set, word)
            for key in keys
        )

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(insist, range(4))) >= 10
    with closing(Ledger(path)) as ledger:
        (spent,) = ledger.dataset_accounts.all_spending().values()
        assert (len(spent.trainings), spent.epsilon, spent.delta) == (10, 2, Fraction("1e-5"))
        assert ledger.totals == LedgerTotals(), "no question was asked"
        ledger.verify()
    for each in ledgers:
        each.close()


def test_hours_are_local_and_the_server_is_looked_at() -> None:
    clock = Clock()
    local = clock.now.astimezone().time()
    later = (clock.now + timedelta(hours=1)).astimezone().time()
    ledger = Ledger(None, clock=clock)
    now, then = replace(OPEN, hours=(local, later)), replace(OPEN, hours=(later, local))
    assert ledger.charge(ask(1), now) is None
    refused = ledger.charge(ask(2), then)
    assert refused is not None
    assert refused.reason is Reason.CLOSED
    known = replace(OPEN, servers=frozenset({"hub:1"}))
    assert ledger.charge(ask(2), known, "hub:1") is None
    refused = ledger.charge(ask(3), known, "hub:2")
    assert refused is not None
    assert refused.reason is Reason.FORBIDDEN


# --- many at once


def test_eight_processes_get_exactly_the_units_that_there_are(path: Path) -> None:
    outcome = race(path, processes=8, units=1000, durable=False)
    assert (outcome.granted, outcome.answered, outcome.short) == (1000, 1000, 0)
    assert outcome.rows == 1008  # each was refused once


def test_eight_processes_spend_exactly_the_privacy_that_there_is(path: Path) -> None:
    outcome = race(path, processes=8, units=300, kills=0, durable=False, price=7)
    assert (outcome.granted, outcome.answered, outcome.short) == (300, 300, 0)
    with closing(Ledger(path)) as ledger:
        assert [spent.micro_rho for spent in ledger.dataset_accounts.all_spending().values()] == [
            2100
        ]


def test_ledgers_are_never_short_when_who_charges_is_killed(path: Path) -> None:
    outcome = race(path, processes=3, units=10, kills=20)
    assert (outcome.kills, outcome.short, outcome.granted) == (20, 0, 10)
    assert outcome.unanswered <= 20


def test_the_race_prints_its_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = tmp_path / "race.json"
    words = ["--processes", "2", "--units", "6", "--kills", "1", "--json", str(found)]
    assert main(words) == 0
    assert (
        "granted 6 of 6 units to 2 processes; 1 kills; 0 processes undercharged"
        in capsys.readouterr().out
    )
    assert json.loads(found.read_text())["granted"] == 6


@pytest.mark.parametrize("shared", [True, False])
def test_threads_get_no_more_than_there_is(path: Path, shared: bool) -> None:
    one = Ledger(path, durable=False)
    ledgers = [one if shared else Ledger(path, durable=False) for _ in range(4)]
    start = threading.Barrier(4)

    def insist(who: int) -> int:
        start.wait(10)
        capped = replace(OPEN, samples=40)
        return sum(ledgers[who].charge(ask(20 * who + i, 3), capped) is None for i in range(20))

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(insist, range(4))) == 13
    for ledger in ledgers:
        ledger.close()  # what it refused in the last minute is then written
    with closing(Ledger(path)) as later:
        assert later.totals == LedgerTotals(asked=39, refused=67)
        later.verify()


# --- the file


def test_only_the_owner_can_read_what_is_stored(path: Path) -> None:
    with closing(filled(path)):
        files = {p.name: stat.S_IMODE(p.stat().st_mode) for p in path.parent.iterdir()}
        assert files == dict.fromkeys([path.name, f"{path.name}-wal", f"{path.name}-shm"], 0o600)
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    path.chmod(0o644)
    with closing(Ledger(path)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_ledgers_are_as_durable_as_they_are_asked_to_be(path: Path) -> None:
    for durable, level in ((True, 2), (False, 1)):
        with closing(Ledger(path, durable=durable)) as ledger:
            assert ledger._read("PRAGMA synchronous") == [(level,)]
            assert ledger._read("PRAGMA journal_mode") == [("wal",)]


def test_no_pixel_leaves_a_trace(path: Path) -> None:
    pixels = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8)
    floats = torch.rand(2, 1, 8, 8)
    with closing(Ledger(path)) as ledger:
        ledger.charge(Ask(pixels), OPEN)
        ledger.charge(Ask(floats), OPEN)
        kept = b"".join(p.read_bytes() for p in path.parent.iterdir())
    assert len(kept) > 10_000
    for traced in (pixels, floats):
        assert traced.numpy().tobytes()[:16] not in kept
    assert str(path.parent).encode() not in kept


@pytest.mark.parametrize("content", [b"", b"no database at all" * 300])
def test_what_is_no_ledger_is_not_opened(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(DataError, match=r"cannot be opened or read.*last good copy"):
        Ledger(tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == content


def test_another_database_and_another_place_are_not_opened(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "other")) as other:
        other.execute("CREATE TABLE entries (a)")
    with pytest.raises(DataError, match="no ledger of this version"):
        Ledger(tmp_path / "other")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be opened"):
        Ledger(tmp_path / "file" / "ledger.sqlite")


def test_a_name_that_an_address_could_misread_is_a_name(tmp_path: Path) -> None:
    odd = tmp_path / "a?mode=memory#b %41.sqlite"
    with closing(filled(odd)):
        assert odd.is_file()
    assert [p.name for p in tmp_path.iterdir()] == [odd.name]


def test_ledgers_that_cannot_be_written_refuse_and_say_why_only_at_home(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(filled(path)) as ledger:
        with closing(sqlite3.connect(path)) as other:
            other.execute("ALTER TABLE entries RENAME TO elsewhere")
        assert ledger.charge(ask(9), OPEN) == NOT_RECORDED
        assert ledger.charge(ask(1), OPEN) == NOT_RECORDED  # not even a repeat
        assert ledger.record_refusal(ask(9), WHY) == NOT_RECORDED
        with pytest.raises(DataError):
            _ = ledger.totals
    assert "no such table" in caplog.text
    assert str(path) not in NOT_RECORDED.text
    assert "table" not in NOT_RECORDED.text
    closed = filled()
    closed.close()
    closed.close()
    caplog.set_level(logging.CRITICAL)
    assert closed.charge(ask(9), OPEN) == NOT_RECORDED


# --- what was tampered with


def test_a_log_is_exported_line_by_line_and_never_over_something(tmp_path: Path) -> None:
    ledger = filled()
    lines = tmp_path / "log.jsonl"
    assert ledger.export(lines) == 6
    rows = [Entry(**json.loads(line)) for line in lines.read_text().splitlines()]
    assert rows == list(ledger.entries())
    assert list(verified_chain(rows, ledger.head())) == rows
    assert stat.S_IMODE(lines.stat().st_mode) == 0o600
    with pytest.raises(DataError, match="not there yet"):
        ledger.export(lines)


@pytest.fixture(scope="module")
def ledger() -> Iterator[Ledger]:
    with closing(filled()) as ledger:
        yield ledger


anything = (
    st.integers(-(2**63), 2**63 - 1)
    | st.integers(-3, 8)
    | st.text(max_size=8)
    | st.sampled_from(["answered", "repeat", "refused", "ask"])
    | st.binary(max_size=8)
    | st.floats(allow_nan=False)
)


@given(st.integers(1, 6), st.sampled_from([f.name for f in fields(Entry)]), anything)
@settings(max_examples=150, deadline=None)
def test_whatever_is_changed_in_whichever_row_is_found(
    ledger: Ledger, number: int, column: str, value: object
) -> None:
    db = ledger._db
    before = list(db.execute("SELECT * FROM entries ORDER BY sequence"))
    db.execute("BEGIN")
    try:
        try:
            db.execute(f"UPDATE entries SET {column} = ? WHERE sequence = ?", (value, number))
        except sqlite3.IntegrityError:
            return  # the file itself does not take it
        if list(db.execute("SELECT * FROM entries ORDER BY sequence")) == before:
            return
        # A row that was moved to the front stands where the first should.
        moved = column == "sequence" and db.execute("SELECT MIN(sequence) < 1 FROM entries")
        first = 1 if moved and moved.fetchone()[0] else number
        found = "is missing" if column == "sequence" else "was changed"
        with pytest.raises(DataError, match=f"row {first} {found}") as caught:
            ledger.verify()
        assert "put the last good copy" in str(caught.value)
    finally:
        db.execute("ROLLBACK")
    ledger.verify()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("DELETE FROM entries WHERE sequence = 1", "row 1 is missing"),
        ("DELETE FROM entries WHERE sequence = 3", "row 3 is missing"),
        ("DELETE FROM entries WHERE sequence > 4", "row 5 and what follows it are missing"),
        ("DELETE FROM entries", "row 1 and what follows it are missing"),
        ("DELETE FROM head", "its end is not marked"),
        ("UPDATE head SET sequence = 'x'", "its end is not marked"),
        ("UPDATE head SET sequence = 5", "row 5 is not the one that was noted"),
        ("UPDATE head SET hash = ''", "row 6 is not the one that was noted"),
        ("INSERT INTO head SELECT * FROM head", "its end is not marked"),
        *(
            (
                f"INSERT INTO entries SELECT time, server, kind, signals, count, 'x', {sequence}, "
                "decision, reason, cost, micro_rho, epsilon, delta, data_set, mode, queries, "
                "before, after, previous, hash FROM entries WHERE sequence = 1",
                "row 1 is missing",
            )
            for sequence in (-7, -(2**63))
        ),
    ],
)
def test_a_cut_is_found_and_nothing_is_answered_after_it_is_seen(
    path: Path, change: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    with closing(filled(path)) as ledger:
        order = ", ".join(f.name for f in fields(Entry))
        ledger._db.execute(change.replace("INTO entries", f"INTO entries ({order})"))
        with pytest.raises(DataError, match=said):
            ledger.verify()
        if "= 1" in change or "= 3" in change or "-7" in change:
            return  # the end still holds; only the whole chain shows it
        assert ledger.charge(ask(99), OPEN) == NOT_RECORDED
    with pytest.raises(DataError, match="fails verification"):
        Ledger(path)


def rewritten(ledger: Ledger, change: dict[int, dict[str, object]], keep: int = 6) -> None:
    """By somebody who can write the file: a whole chain anew, and its mark."""
    last, rows = GENESIS, []
    for entry in list(ledger.entries())[:keep]:
        said = replace(entry, **{"previous": last.hash, **change.get(entry.sequence, {})})
        last = replace(said, hash=said.computed_hash())
        rows.append(last)
    db = ledger._db
    db.execute("DROP INDEX charged_once")
    db.execute("DELETE FROM entries")
    columns = ", ".join(f.name for f in fields(Entry))
    for row in rows:
        values = tuple(vars(row).values())
        db.execute(
            f"INSERT INTO entries ({columns}) VALUES ({', '.join('?' * len(values))})", values
        )
    db.execute("UPDATE head SET sequence = ?, hash = ?", (last.sequence, last.hash))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({2: {"cost": 0, "after": 2}, 3: {"before": 2, "after": 2}}, "row 2 does not charge"),
        ({3: {"previous": "0"}}, "row 3 does not follow the row before it"),
        ({1: {"count": -2}}, "row 1 is none that a ledger writes"),
        ({1: {"decision": "lost"}}, "row 1 is none that a ledger writes"),
        ({1: {"epsilon": 3.0, "delta": 1e-5}}, "row 1 is none that a ledger writes"),
        ({1: {"kind": "training"}}, "row 1 is none that a ledger writes"),
        ({6: {"before": 0, "after": 1}}, "row 6 does not charge"),
        ({1: {"queries": 2}}, "row 1 is none that a ledger writes"),
        ({4: {"queries": 0}}, "row 4 is none that a ledger writes"),
        ({3: {"digest": "new"}}, "row 3 charges a repeat, or repeats what was never charged"),
    ],
)
def test_a_chain_written_anew_must_still_charge_what_was_asked(
    change: dict[int, dict[str, object]], said: str
) -> None:
    ledger = filled()
    rewritten(ledger, change)
    with pytest.raises(DataError, match=said):
        ledger.verify()


def test_a_chain_written_anew_is_found_against_a_head_that_was_noted() -> None:
    changes: tuple[tuple[dict[int, dict[str, object]], int, str], ...] = (
        ({}, 4, "row 5 and what follows it are missing"),
        ({1: {"server": "nobody"}}, 6, "row 6 is not the one that was noted"),
    )
    for change, keep, said in changes:
        ledger = filled()
        noted = ledger.head()
        assert ledger.verify(noted) == noted
        rewritten(ledger, change, keep)
        ledger.verify()  # nothing in the file tells it from an honest one
        with pytest.raises(DataError, match=said):
            ledger.verify(noted)
    ledger = filled()
    noted = ledger.head()
    ledger.charge(ask(77), OPEN)
    assert ledger.verify(noted).sequence == 7  # an older head is on the way


def test_the_policy_says_when() -> None:
    night = Policy(hours=(time(22), time(6)))
    day = Policy(hours=(time(8), time(18)))
    for at, by_day, by_night in ((8, True, False), (18, False, False), (22, False, True)):
        assert (day.refusal(ask(1), "", time(at)) is None) is by_day
        assert (night.refusal(ask(1), "", time(at)) is None) is by_night
    assert night.refusal(ask(1), "", time(5, 59)) is None
    assert day.refusal(ask(1), "", time(2)) == Refusal(
        Reason.CLOSED, "asked out of hours; answers from 08:00 to 18:00 here"
    )
