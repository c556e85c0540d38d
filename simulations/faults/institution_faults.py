"""Faults of honest institutions: kill, hang, freeze, cut, slow down, take the ledger, repeat.

All but the cut begin at a moment when a query is at the institution, so that the coordinator has
something to notice; and what can last, lasts until it did. A restart of the coordinator in
between thus hides nothing.
"""

import json
import os
import signal
import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from fedkd.simulations.faults.cluster import InstitutionProcess
from fedkd.simulations.faults.deployment_files import LINGER, TIMEOUT
from fedkd.simulations.faults.fault_kinds import Fault, FaultKind
from fedkd.simulations.faults.ledger_audit import (
    REPEAT_DECISION,
    TIMEOUT_REASON,
    JournalEntry,
    chain_error,
    row_count,
)
from fedkd.simulations.faults.repeating_coordinator import REPEATED_BATCH, REPEATS
from fedkd.simulations.faults.run_context import (
    Injection,
    RunContext,
    asked_again,
    pause,
    until,
    until_missing,
)
from fedkd.simulations.faults.stalling_teacher import (
    STALL_STARTED,
    cancel_stall,
    request_slowness,
    request_stall,
)

LONG_STALL = 600.0
"""Seconds after which a stall ends that nobody has cancelled."""
SLOW_QUERIES, SLOW_RECORDED = 10, 9
"""Queries for which an institution is slow, and how many of its answers must be recorded."""
NOT_RECORDED = "could not record this in its ledger"
"""Part of the refusal of an institution whose ledger is gone."""
REPEAT_SECONDS = 60.0
"""For the victim to find the other coordinator, and to answer it."""
MOST_REPEAT_ROWS = 3


def inject_into_institution(context: RunContext, fault: Fault) -> Injection:
    """One of `INSTITUTION_FAULTS`, once no other fault is at work there."""
    yield from until(lambda: fault.victim not in context.busy)
    context.busy.add(fault.victim)
    try:
        yield from EFFECTS[fault.kind](context, fault)
    finally:
        context.busy.discard(fault.victim)
    ledger = context.cluster.files.ledger(fault.victim)
    yield from until(lambda: asked_again(fault, ledger) or context.coordinator.status == 0)
    fault.recovered = asked_again(fault, ledger)


def _stall_at_a_query(context: RunContext, fault: Fault) -> Injection:
    """Until the victim's teacher is at an answer, which is charged already, and stalls there."""
    folder = context.cluster.honest[fault.victim].folder
    request_stall(folder, LONG_STALL)
    yield from until((folder / STALL_STARTED).exists)


def _kill(context: RunContext, fault: Fault) -> Injection:
    institution = context.cluster.honest[fault.victim]
    try:
        yield from _stall_at_a_query(context, fault)
        starts = institution.starts
        institution.kill()
        context.mark_injected(fault)
        if broken := chain_error(context.cluster.files.ledger(fault.victim)):
            context.result.broken.append(f"{fault.victim}: {broken}")
    finally:
        cancel_stall(institution.folder)
    yield from until(lambda: institution.starts > starts)
    fault.noticed, fault.note = True, "killed at a charged answer, and restarted"


def _hang(context: RunContext, fault: Fault) -> Injection:
    try:
        yield from _stall_at_a_query(context, fault)
        known = len(context.journal())
        context.mark_injected(fault)
        yield from pause(TIMEOUT + context.rng.uniform(0.2, 1.0))
        yield from until_missing(context, fault, known)
    finally:
        cancel_stall(context.cluster.honest[fault.victim].folder)


def _freeze(context: RunContext, fault: Fault) -> Injection:
    institution = context.cluster.honest[fault.victim]
    try:
        yield from _stall_at_a_query(context, fault)
        known = len(context.journal())
        institution.send(signal.SIGSTOP)
        context.mark_injected(fault)
        cancel_stall(institution.folder)  # from here on only the signal holds it
        yield from pause(context.rng.uniform(2 * LINGER, TIMEOUT + 1.0))
        yield from until_missing(context, fault, known)
    finally:
        institution.send(signal.SIGCONT)
        cancel_stall(institution.folder)


def _reset(context: RunContext, fault: Fault) -> Injection:
    while not (sockets := context.cluster.proxy.reset(fault.victim)):
        yield
    context.mark_injected(fault)
    fault.note, fault.noticed = f"{sockets} sockets", True


def _slow_down(context: RunContext, fault: Fault) -> Injection:
    folder = context.cluster.honest[fault.victim].folder
    log = folder / "log"
    known, usual = len(context.journal()), answer_seconds(log, 0)
    start = log.stat().st_size
    request_slowness(folder, True)
    context.mark_injected(fault)
    try:
        while True:
            entries = context.journal()[known:]
            answered = sum(fault.victim in entry.answered for entry in entries)
            late = sum(
                entry.missing.get(fault.victim, "").startswith(TIMEOUT_REASON) for entry in entries
            )
            if answered + late >= SLOW_QUERIES:
                break
            yield
        slow = answer_seconds(log, start)
        fault.noticed = answered >= SLOW_RECORDED and slow > usual
        fault.note = f"{answered} answers recorded, {late} late; {slow:.3f} s, before {usual:.3f} s"
    finally:
        request_slowness(folder, False)


def answer_seconds(log: Path, start: int) -> float:
    """Median seconds of the last `SLOW_QUERIES` answers in a log, from byte ``start`` on."""
    found = []
    for line in log.read_bytes()[start:].split(b"\n")[:-1]:
        if b'"event": "question"' in line and line.startswith(b"{"):
            found.append(float(json.loads(line)["seconds"]))
    return statistics.median(found[-SLOW_QUERIES:]) if found else 0.0


def _delete_ledger(context: RunContext, fault: Fault) -> Injection:
    """Unlink the ledger, see that nothing is answered, and link the open file again.

    The open file has every charge: its name was taken, and nothing else. (An older copy would
    lack what was charged since.) No process is started on the empty place meanwhile. Where the
    coordinator stops just then, its agents end: the file is put back, and all of it tried again.
    """
    institution = context.cluster.honest[fault.victim]
    ledger = context.cluster.files.ledger(fault.victim)
    while not fault.noticed:
        try:
            # An agent that has only just started would make a new ledger.
            yield from _stall_at_a_query(context, fault)
            known = len(context.journal())
            context.mark_injected(fault)
            with _without_file(ledger, institution):
                cancel_stall(institution.folder)
                yield from until_missing(
                    context, fault, known, NOT_RECORDED, lambda: not institution.runs
                )
                made = ledger.exists()
        finally:
            cancel_stall(institution.folder)
        if made:
            fault.noticed, fault.note = False, "a new ledger was made in its place"
            break
    fault.before = row_count(ledger)


@contextmanager
def _without_file(ledger: Path, institution: InstitutionProcess) -> Iterator[None]:
    """Take the ledger's name away, until the block ends; whatever has it then is replaced."""
    kept = ledger.with_name("ledger.kept")
    institution.held = True
    os.link(ledger, kept)
    ledger.unlink()
    try:
        yield
    finally:
        kept.replace(ledger)
        institution.held = False


def _ask_repeats(context: RunContext, fault: Fault) -> Injection:
    """Another coordinator with the same certificate takes the victim, and repeats one question."""
    cluster, name, answered = context.cluster, fault.victim, 0
    process, receiver = cluster.start_repeating_coordinator(name)
    try:
        yield from until(receiver.poll)
        port, digest = receiver.recv()
        before = len(context.rows(name))
        # No journal has this question, and it is known all the same.
        known = JournalEntry(digest, frozenset(), {name: "another coordinator's"}, {}, 0.0)
        context.result.other_queries.append(known)
        cluster.proxy.route(name, port)
        cluster.proxy.reset(name)
        yield from until(receiver.poll, REPEAT_SECONDS)
        context.mark_injected(fault)
        answered = receiver.recv() if receiver.poll() else 0
    finally:
        process.kill()
        cluster.proxy.route(name, cluster.files.port)
        cluster.proxy.reset(name)
    if answered:
        entry = JournalEntry(digest, frozenset({name}), {}, {}, 0.0)
        context.result.other_queries[-1] = entry
    rows = context.rows(name)[before:]
    charged = [row.cost for row in rows if row.cost and row.count == REPEATED_BATCH]
    repeats = sum(row.decision == REPEAT_DECISION for row in rows)
    fault.noticed = answered == REPEATS + 1 and len(charged) == 1 and repeats <= MOST_REPEAT_ROWS
    fault.note = f"{answered} answers, charged {charged}, {repeats} rows of repeats"


EFFECTS: Mapping[FaultKind, Callable[[RunContext, Fault], Injection]] = {
    FaultKind.KILLED: _kill,
    FaultKind.HANG: _hang,
    FaultKind.FROZEN: _freeze,
    FaultKind.RESET: _reset,
    FaultKind.SLOW: _slow_down,
    FaultKind.LEDGER: _delete_ledger,
    FaultKind.REPEATS: _ask_repeats,
}
