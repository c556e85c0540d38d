"""The campaign of faults: its checks find what was planted, and a short one with real processes."""

import random
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch

from fedkd.client.ledger.ledger import Ledger
from fedkd.privacy import Policy
from fedkd.protocol import Ask, Card, Reply, Signal
from fedkd.simulations.faults import ledger_audit as audit
from fedkd.simulations.faults.campaign import COMING, findings
from fedkd.simulations.faults.cluster import Cast, ready, until
from fedkd.simulations.faults.deployment_files import BATCH, BUDGET, STEPS, Site
from fedkd.simulations.faults.fault_kinds import (
    MISDEEDS,
    TO_INSTITUTIONS,
    Fault,
    Kind,
    departures,
    plan,
)
from fedkd.simulations.faults.faulty_run import Run
from fedkd.simulations.faults.proxy import Proxy
from fedkd.wire import Recorder

MARK = b"a teacher"
LINGER = 0.25
NAME = "north"
REPLY = Reply({Signal.LOGITS: torch.zeros(2, 3, dtype=torch.float16)})


def ask(value: int) -> Ask:
    return Ask(torch.full((2, 1, 4, 4), value, dtype=torch.uint8))


@pytest.fixture
def books(tmp_path: Path) -> Path:
    """Of an institution that was asked four questions, and the second of them twice."""
    path = tmp_path / "ledger.sqlite"
    with closing(Ledger(path)) as ledger:
        for value in (0, 1, 1, 2, 3):
            assert ledger.charge(ask(value), Policy(frozenset({Signal.LOGITS})), "", MARK) is None
    return path


def told(folder: Path, **at: tuple[bool, str, int, float]) -> list[audit.Asked]:
    """A journal of four questions to north and south, each answered by both unless ``at`` says.

    Values of ``at``: whether north's answer is there, why it is missing, how many came of it by
    then, seconds of the run.
    """
    path = folder / "replies.bin"
    path.unlink(missing_ok=True)
    cards = [Card(name, 3, (1, 4, 4), frozenset({Signal.LOGITS})) for name in (NAME, "south")]
    recorder = Recorder(path)
    recorder.begin(cards)
    for value in range(4):
        there, why, came, seconds = at.get(f"q{value}", (True, "", value + 1, 1.0 * value))
        answers = {"south": REPLY, **({NAME: REPLY} if there else {})}
        missing = {NAME: ("lost", why)} if why else {}
        note = {"seconds": seconds, "counted": {NAME: {"answers": came}}}
        recorder.keep(ask(value), answers, missing, note)
    recorder.close()
    return audit.journal(path)


def lost(books: Path, journal: list[audit.Asked]) -> list[str]:
    return audit.lost(NAME, MARK, audit.rows(books), journal, LINGER)


def test_books_in_order_show_nothing(books: Path, tmp_path: Path) -> None:
    journal = told(tmp_path)
    assert [asked.answered for asked in journal] == [frozenset({NAME, "south"})] * 4
    assert lost(books, journal) == []
    assert audit.double_charges(audit.rows(books)) == 0
    assert audit.uncharged(NAME, MARK, audit.rows(books), journal) == 0
    assert audit.objection(books) == ""


def test_a_question_that_is_being_written_is_not_read(tmp_path: Path) -> None:
    whole, path = told(tmp_path), tmp_path / "replies.bin"
    content = path.read_bytes()
    for cut in range(1, len(content) // 4, 7):
        path.write_bytes(content[:-cut])
        read = audit.journal(path)
        assert read == whole[: len(read)]
        assert len(read) < 4


@pytest.mark.parametrize(
    "plant",
    [
        "INSERT INTO entries SELECT time, server, kind, signals, count, digest, 6 AS sequence, "
        "decision, reason, cost, micro_rho, before, after, previous, hash FROM entries "
        "WHERE sequence = 2",
        "UPDATE entries SET cost = 2 WHERE decision = 'repeat'",
        "UPDATE entries SET cost = 1 WHERE sequence = 1",
    ],
)
def test_a_planted_double_charge_is_found(books: Path, plant: str) -> None:
    with closing(sqlite3.connect(books)) as db:
        db.execute("DROP INDEX charged_once")
        columns = [row[1] for row in db.execute("PRAGMA table_info(entries)")]
        values = ", ".join("6" if column == "sequence" else column for column in columns)
        if plant.startswith("INSERT"):
            plant = f"INSERT INTO entries SELECT {values} FROM entries WHERE sequence = 2"
        db.execute(plant)
        db.commit()
    assert audit.double_charges(audit.rows(books)) > 0
    assert audit.objection(books) != ""


def test_a_planted_lost_answer_is_found(books: Path, tmp_path: Path) -> None:
    assert lost(books, told(tmp_path, q2=(False, "", 3, 2.0))) == [
        "north, row 4: answered, and neither kept nor missed",
        "north: 4 answers came, 3 kept, 0 late",
    ]
    # A question that the run knows nothing of.
    assert lost(books, told(tmp_path)[:3]) == [
        "north, row 5: answered, and no such question is known"
    ]


def test_late_is_an_excuse_only_where_somebody_waited(books: Path, tmp_path: Path) -> None:
    late = "no answer within 0.25 s after the quorum's"
    assert lost(books, told(tmp_path, q2=(False, late, 3, 2.0))) == []
    assert lost(books, told(tmp_path, q2=(False, late, 3, 1.1))) == [
        "north, question 3: not waited for"
    ]
    # Its answer came, and it was never called late.
    away = (False, "the connection was lost", 3, 2.0)
    assert lost(books, told(tmp_path, q2=away)) == ["north: 4 answers came, 3 kept, 0 late"]
    assert lost(books, told(tmp_path, q2=away, q3=(True, "", 3, 3.0))) == []


def test_an_answer_that_was_not_charged_is_found(books: Path, tmp_path: Path) -> None:
    rows = [row for row in audit.rows(books) if row.sequence != 5]
    assert audit.uncharged(NAME, MARK, rows, told(tmp_path)) == 1


def test_a_plan_has_every_kind_and_is_the_same_for_the_same_seed() -> None:
    honest, saboteurs = ["a", "b", "c", "d"], ["v", "w", "x", "y", "z"]
    leaving = departures(7, saboteurs, 64)
    assert leaving == departures(7, saboteurs, 64) != departures(8, saboteurs, 64)
    first, second = (plan(random.Random(3), honest, leaving, 64, 100) for _ in range(2))
    assert first == second
    assert {fault.kind for fault in first} == set(Kind)
    assert [fault.question for fault in first] == sorted(fault.question for fault in first)
    assert {f.victim: f.question for f in first if f.kind in MISDEEDS} == leaving
    assert sorted(f.victim for f in first if f.kind in TO_INSTITUTIONS) == sorted(3 * honest)
    assert len(plan(random.Random(3), honest, leaving, 64, 4)) == 4


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a name that is short enough for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="fedkd-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


def test_a_run_with_faults_ends_and_its_books_are_right(short: Path) -> None:
    site = Site(short, ["clinic-0", "clinic-1"], ["saboteur-0"])
    (short / "runs").mkdir()
    ready()
    proxy = Proxy(site.names, site.port)
    site.prepare(proxy.ports, lambda name: None, epochs=2)
    small = site.experiment.read_text().replace(f"budget = {BUDGET}", f"budget = {32 * BATCH}")
    # One of the two honest institutions is killed: the other has to do, however slow the machine.
    site.experiment.write_text(
        small.replace(f"steps = {STEPS}", "steps = 40").replace("quorum = 2", "quorum = 1")
    )
    faults = [
        Fault(Kind.RESET, "clinic-1", 3, 0.0),
        Fault(Kind.NAN, "saboteur-0", 5, 0.0),
        Fault(Kind.TOKEN, "saboteur-0", 6, 0.0),
        Fault(Kind.KILLED, "clinic-0", 8, 0.0),
        Fault(Kind.COORDINATOR, "", 18, 0.0),
    ]
    with Cast(site, proxy, 0) as cast:
        assert until(lambda: all(site.ledger(n).exists() for n in site.names), COMING, cast.tend)
        passed = Run(cast, short / "runs" / "0", 0, faults, random.Random(0)).play()
    proxy.close()
    assert (passed.ended, passed.hung, passed.lives, passed.stops) == (True, False, 2, [])
    assert [f.kind for f in faults if not (f.injected and f.noticed)] == []
    found = findings(site, [passed])
    assert (found.lost, found.double_charges, found.uncharged, found.broken) == ([], 0, 0, [])
    assert found.answers > 40
