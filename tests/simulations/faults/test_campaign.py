"""Fault injection: the ledger audit finds planted errors; a short run with real processes."""

import random
import shutil
import signal
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fedkd.client.ledger.ledger import Ledger
from fedkd.privacy import Policy
from fedkd.protocol import Ask, Card, Reply, Signal
from fedkd.simulations.faults import ledger_audit
from fedkd.simulations.faults.campaign import START_TIMEOUT
from fedkd.simulations.faults.cluster import Cluster, prepare_forkserver, wait_until
from fedkd.simulations.faults.deployment_audit import audit_ledgers
from fedkd.simulations.faults.deployment_files import BATCH, BUDGET, STEPS, DeploymentFiles
from fedkd.simulations.faults.fault_kinds import (
    EXPECTED_OUTCOMES,
    FREQUENT_INSTITUTION_FAULTS,
    INSTITUTION_FAULTS,
    PROTOCOL_VIOLATIONS,
    SINGLE_INSTITUTION_FAULTS,
    STRANGER_FAULTS,
    Fault,
    FaultKind,
)
from fedkd.simulations.faults.fault_plan import departure_schedule, plan_faults
from fedkd.simulations.faults.faulty_run import INJECTIONS, FaultyRun
from fedkd.simulations.faults.institution_faults import NOT_RECORDED
from fedkd.simulations.faults.proxy import Proxy
from fedkd.wire import ReplyRecorder

FINGERPRINT = b"a teacher"
LINGER = 0.25
NAME = "north"
REPLY = Reply({Signal.LOGITS: torch.zeros(2, 3, dtype=torch.float16)})


def ask(value: int) -> Ask:
    return Ask(torch.full((2, 1, 4, 4), value, dtype=torch.uint8))


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """The ledger of an institution that was asked four queries, the second of them twice."""
    path = tmp_path / "ledger.sqlite"
    with closing(Ledger(path)) as ledger:
        for value in (0, 1, 1, 2, 3):
            assert (
                ledger.charge(ask(value), Policy(frozenset({Signal.LOGITS})), "", FINGERPRINT)
                is None
            )
    return path


def journal_of(folder: Path, **at: tuple[bool, str, int, float]) -> list[ledger_audit.JournalEntry]:
    """A journal of four queries to north and south, each answered by both unless ``at`` says.

    Values of ``at``: whether north's answer is recorded, why it is missing, how many answers north
    had sent by then, seconds of the run.
    """
    path = folder / "replies.bin"
    path.unlink(missing_ok=True)
    cards = [Card(name, 3, (1, 4, 4), frozenset({Signal.LOGITS})) for name in (NAME, "south")]
    recorder = ReplyRecorder(path)
    recorder.start(cards)
    for value in range(4):
        there, why, came, seconds = at.get(f"q{value}", (True, "", value + 1, 1.0 * value))
        answers = {"south": REPLY, **({NAME: REPLY} if there else {})}
        missing = {NAME: ("lost", why)} if why else {}
        note = {"seconds": seconds, "counted": {NAME: {"answers": came}}}
        recorder.append(ask(value), answers, missing, note)
    recorder.close()
    return ledger_audit.read_journal(path)


def lost_of(ledger: Path, journal: list[ledger_audit.JournalEntry]) -> list[str]:
    rows = ledger_audit.ledger_rows(ledger)
    return ledger_audit.lost_answers(NAME, FINGERPRINT, rows, journal, LINGER)


def test_an_intact_ledger_has_no_findings(ledger: Path, tmp_path: Path) -> None:
    journal = journal_of(tmp_path)
    assert [asked.answered for asked in journal] == [frozenset({NAME, "south"})] * 4
    assert lost_of(ledger, journal) == []
    rows = ledger_audit.ledger_rows(ledger)
    assert ledger_audit.double_charges(rows) == 0
    assert ledger_audit.uncharged_answers(NAME, FINGERPRINT, rows, journal) == 0
    assert ledger_audit.chain_error(ledger) == ""


def test_repeats_that_share_a_row_are_no_double_charge_and_no_lost_answers(tmp_path: Path) -> None:
    path, policy = tmp_path / "ledger.sqlite", Policy(frozenset({Signal.LOGITS}))
    with closing(Ledger(path)) as ledger:
        for value in (0, 1, 2, 3, 1, 2, 0, 1):  # the last three repeats come within a minute
            assert ledger.charge(ask(value), policy, "", FINGERPRINT) is None
    rows, journal = ledger_audit.ledger_rows(path), journal_of(tmp_path)
    assert [row.count for row in rows if row.decision == "repeat"] == [2, 6]
    assert ledger_audit.double_charges(rows) == 0
    assert ledger_audit.uncharged_answers(NAME, FINGERPRINT, rows, journal) == 0
    assert lost_of(path, journal) == []


def test_an_incomplete_journal_entry_is_ignored(tmp_path: Path) -> None:
    whole, path = journal_of(tmp_path), tmp_path / "replies.bin"
    content = path.read_bytes()
    for cut in range(1, len(content) // 4, 7):
        path.write_bytes(content[:-cut])
        read = ledger_audit.read_journal(path)
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
def test_a_planted_double_charge_is_found(ledger: Path, plant: str) -> None:
    with closing(sqlite3.connect(ledger)) as db:
        db.execute("DROP INDEX charged_once")
        columns = [row[1] for row in db.execute("PRAGMA table_info(entries)")]
        values = ", ".join("6" if column == "sequence" else column for column in columns)
        if plant.startswith("INSERT"):
            plant = f"INSERT INTO entries SELECT {values} FROM entries WHERE sequence = 2"
        db.execute(plant)
        db.commit()
    assert ledger_audit.double_charges(ledger_audit.ledger_rows(ledger)) > 0
    assert ledger_audit.chain_error(ledger) != ""


def test_a_planted_lost_answer_is_found(ledger: Path, tmp_path: Path) -> None:
    assert lost_of(ledger, journal_of(tmp_path, q2=(False, "", 3, 2.0))) == [
        "north, row 4: answered, but neither recorded nor missing",
        "north: 4 answers received, 3 recorded, 0 late",
    ]
    # A question that the journal does not have.
    assert lost_of(ledger, journal_of(tmp_path)[:3]) == [
        "north, row 5: answered, but the query is not known"
    ]


def test_a_timeout_explains_a_lost_answer_only_after_lingering(
    ledger: Path, tmp_path: Path
) -> None:
    late = "no answer within 0.25 s after the quorum's"
    assert lost_of(ledger, journal_of(tmp_path, q2=(False, late, 3, 2.0))) == []
    assert lost_of(ledger, journal_of(tmp_path, q2=(False, late, 3, 1.1))) == [
        "north, query 3: not waited for"
    ]
    # Its answer came, and it was never called late.
    away = (False, "the connection was lost", 3, 2.0)
    assert lost_of(ledger, journal_of(tmp_path, q2=away)) == [
        "north: 4 answers received, 3 recorded, 0 late"
    ]
    assert lost_of(ledger, journal_of(tmp_path, q2=away, q3=(True, "", 3, 3.0))) == []


def test_an_answer_that_was_not_charged_is_found(ledger: Path, tmp_path: Path) -> None:
    ledger_rows = [row for row in ledger_audit.ledger_rows(ledger) if row.sequence != 5]
    assert ledger_audit.uncharged_answers(NAME, FINGERPRINT, ledger_rows, journal_of(tmp_path)) == 1
    # A repeat of what was never charged is not charged either.
    repeated = replace(ledger_audit.ledger_rows(ledger)[4], decision="repeat", cost=0)
    ledger_rows.append(repeated)
    assert ledger_audit.uncharged_answers(NAME, FINGERPRINT, ledger_rows, journal_of(tmp_path)) == 1


def test_a_plan_has_every_kind_and_is_the_same_for_the_same_seed() -> None:
    honest, malicious = ["a", "b", "c", "d", "e"], ["v", "w", "x", "y", "z"]
    strangers = [f"s{number}" for number in range(len(STRANGER_FAULTS))]
    leave_after = departure_schedule(7, malicious, 64)
    assert (
        leave_after == departure_schedule(7, malicious, 64) != departure_schedule(8, malicious, 64)
    )

    def plan(limit: int = 100) -> list[Fault]:
        return plan_faults(random.Random(3), honest, leave_after, "liar", strangers, 64, limit)

    first = plan()
    assert first == plan()
    assert {fault.kind for fault in first} == set(FaultKind)
    assert [fault.question for fault in first] == sorted(fault.question for fault in first)
    assert {f.victim: f.question for f in first if f.kind in PROTOCOL_VIOLATIONS} == leave_after
    assert sorted(f.victim for f in first if f.kind in INSTITUTION_FAULTS) == sorted(3 * honest)
    assert sorted(f.victim for f in first if f.kind in STRANGER_FAULTS) == strangers
    lies = [(f.victim, f.question) for f in first if f.kind is FaultKind.LYING]
    assert lies == [("liar", 0)]
    assert len(plan(4)) == 4


def test_every_kind_has_an_outcome_and_an_injection() -> None:
    assert set(FaultKind) == EXPECTED_OUTCOMES.keys() == INJECTIONS.keys()
    assert not set(FREQUENT_INSTITUTION_FAULTS) & set(SINGLE_INSTITUTION_FAULTS)


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a name that is short enough for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="fedkd-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def cluster(short: Path) -> Iterator[Cluster]:
    """Two honest institutions, one that will violate the protocol, a liar and strangers."""
    strangers = [f"stranger-{number}" for number in range(len(STRANGER_FAULTS))]
    honest = ["clinic-0", "clinic-1"]
    files = DeploymentFiles(short, honest, ["malicious-0"], ["liar"], strangers)
    (short / "runs").mkdir()
    prepare_forkserver()
    proxy = Proxy(files.names, files.port)
    files.create(proxy.ports, lambda name: None, epochs=2)
    small = files.experiment.read_text().replace(
        f"budget = {BUDGET}", f"budget = {QUERIES * BATCH}"
    )
    # One of the two honest institutions is killed: the other has to do, however slow the machine.
    files.experiment.write_text(
        small.replace(f"steps = {STEPS}", "steps = 40").replace("quorum = 2", "quorum = 1")
    )
    with Cluster(files, proxy, 0) as cluster:
        assert wait_until(
            lambda: all(files.ledger(n).exists() for n in files.names),
            START_TIMEOUT,
            cluster.supervise,
        )
        yield cluster
    proxy.close()


QUERIES = 160
"""Of the run below: enough that all of its faults are over before."""
FAULTS = [
    Fault(FaultKind.LYING, "liar", 0, 0.0),
    Fault(FaultKind.RESET, "clinic-1", 3, 0.0),
    Fault(FaultKind.REPEATS, "clinic-0", 4, 0.0),
    Fault(FaultKind.NAN, "malicious-0", 5, 0.0),
    Fault(FaultKind.TOKEN, "malicious-0", 6, 0.0),
    Fault(FaultKind.CERTIFICATE, "malicious-0", 7, 0.0),
    Fault(FaultKind.LEDGER, "clinic-1", 8, 0.0),
    Fault(FaultKind.KILLED, "clinic-0", 10, 0.0),
    Fault(FaultKind.HEALTH, "stranger-4", 12, 0.0),
    Fault(FaultKind.COMPRESSED, "stranger-5", 14, 0.0),
    Fault(FaultKind.CARD_COUNTS, "stranger-0", 16, 0.0),
    Fault(FaultKind.CARD_CLASSES, "stranger-1", 16, 0.0),
    Fault(FaultKind.CARD_SHAPE, "stranger-2", 16, 0.0),
    Fault(FaultKind.COORDINATOR, "", 18, 0.0),
    Fault(FaultKind.SILENT, "stranger-3", 20, 0.0),
    Fault(FaultKind.SLOW, "clinic-1", 30, 0.0),
    Fault(FaultKind.FROZEN, "clinic-0", 40, 0.0),
]


def test_a_run_with_faults_ends_and_its_ledgers_are_right(cluster: Cluster) -> None:
    faults, files = [replace(fault) for fault in FAULTS], cluster.files
    run = FaultyRun(cluster, files.folder / "runs" / "0", 0, faults, random.Random(0))
    result = run.execute()
    assert (result.ended, result.hung, result.starts) == (True, False, 2)
    assert (result.stops, result.deaths) == ([], [])
    assert [(f.kind, f.note) for f in faults if not (f.injected and f.noticed)] == []
    notes = {fault.kind: fault.note for fault in faults}
    assert NOT_RECORDED in notes[FaultKind.LEDGER]
    assert "banned" in notes[FaultKind.NAN]
    assert result.left_out == ["liar"]
    found = audit_ledgers(files, [result])
    assert (found.lost_answers, found.broken) == ([], [])
    assert (found.double_charges, found.uncharged_answers) == (0, 0)
    assert found.answers > 40
    # What the second coordinator asked is in no journal: the audit would find it without a word.
    result.other_queries.clear()
    lost = audit_ledgers(files, [result]).lost_answers
    assert any("the query is not known" in line for line in lost)


def test_an_agent_that_dies_by_itself_is_counted_and_restarted(cluster: Cluster) -> None:
    institution = cluster.honest["clinic-0"]
    institution.kill()
    cluster.supervise()
    assert (institution.starts, cluster.deaths) == (2, [])
    institution.send(signal.SIGSEGV)
    assert wait_until(lambda: institution.starts == 3, 10.0, cluster.supervise)
    assert cluster.deaths == [f"clinic-0: status {-signal.SIGSEGV}"]
