"""Faults of those who take no part: wrong credentials, absurd cards, calls never finished.

Whoever finds the coordinator down tries again: a fault counts once the same process of the
coordinator was there from the beginning of the attempt to its end.
"""

import json
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from fedkd.simulations.faults.fault_kinds import (
    ABSURD_CARDS,
    AUTHENTICATION_FAULTS,
    Fault,
    FaultKind,
)
from fedkd.simulations.faults.intruders import (
    JOINED,
    UNFINISHED,
    Status,
    begin_calls,
    send_compressed,
)
from fedkd.simulations.faults.run_context import Injection, RunContext, until

DOWN = "UNAVAILABLE"
"""Status where nobody listens, or where TLS refuses."""
EXPECTED_STATUS = {
    FaultKind.TOKEN: "UNAUTHENTICATED",
    FaultKind.CERTIFICATE: "TLS UNAVAILABLE",
    **dict.fromkeys(ABSURD_CARDS, "INVALID_ARGUMENT"),
}
"""Status by which each Hello is refused."""
BOUNDS = {
    FaultKind.CARD_COUNTS: "class counts from",
    FaultKind.CARD_CLASSES: "65536 classes",
    FaultKind.CARD_SHAPE: "2147483648",
}
"""Part of the details by which an absurd card is refused."""
MOST_GROWTH = 100.0
"""MiB by which the coordinator may grow while it refuses compressed messages; inflated they are
464."""
HEARD, QUERIES_MEANWHILE = 3, 2
"""Strangers that must be heard while calls are held, and queries that must be recorded."""
HOLD_SECONDS = 60.0
"""For which calls are held, at most."""

Intruder = tuple[ForkServerProcess, Connection]
"""A process, and the pipe of its reports."""


def try_a_hello(context: RunContext, fault: Fault) -> Injection:
    """One of `AUTHENTICATION_FAULTS` or `ABSURD_CARDS`."""
    status: Status = ("", "")
    lives = 0
    while not lives or not context.is_up() or context.coordinator.starts != lives or _down(status):
        yield from until(context.is_up)
        lives = context.coordinator.starts
        process, receiver = context.cluster.start_intruder(fault.victim, fault.kind)
        fault.attempts += 1
        yield from until(receiver.poll)
        status = receiver.recv()
        process.join(1.0)
    fault.injected = True
    fault.noticed = status[0] == EXPECTED_STATUS[fault.kind]
    fault.noticed &= BOUNDS.get(fault.kind, "") in status[1]
    fault.note = ": ".join(status)


def _down(status: Status) -> bool:
    """Whether nobody has listened: TLS would have refused an expired certificate."""
    return status[0] == DOWN


def hold_calls(context: RunContext, fault: Fault) -> Injection:
    """One of `UNFINISHED_CALLS`: noticed where others are heard meanwhile, and queries go on."""
    while not fault.injected:
        yield from until(context.is_up)
        lives, known = context.coordinator.starts, context.recorded_queries()
        intruder = context.cluster.start_stranger(fault.victim, fault.kind, begin_calls)
        fault.attempts += 1
        heard: list[Status] = []
        calls: dict[str, int] = {}
        try:
            yield from _hear_others(context, intruder, calls, heard, known)
        finally:
            intruder[0].kill()
        # Where the coordinator was stopped by a fault of its own, all of it is tried again.
        reached = sum(count for status, count in calls.items() if status != DOWN)
        same = context.is_up() and context.coordinator.starts == lives
        fault.injected = same and reached >= UNFINISHED
        recorded = context.recorded_queries() - known
        right = sum(code == EXPECTED_STATUS[FaultKind.TOKEN] for code, _ in heard)
        fault.noticed = right >= HEARD and recorded >= QUERIES_MEANWHILE
        others = "; ".join(sorted({": ".join(each) for each in heard}))
        fault.note = f"{json.dumps(calls)}; {right} others heard, {recorded} queries; {others}"


def _hear_others(
    context: RunContext,
    intruder: Intruder,
    calls: dict[str, int],
    heard: list[Status],
    known: int,
) -> Injection:
    """While calls are held: let others come with wrong tokens, whom the hub must judge."""
    yield from until(intruder[1].poll, HOLD_SECONDS)
    calls.update(intruder[1].recv() if intruder[1].poll() else {})
    for _ in range(HEARD):
        name = context.rng.choice(context.cluster.files.malicious)
        process, receiver = context.cluster.start_intruder(name, FaultKind.TOKEN)
        yield from until(receiver.poll, HOLD_SECONDS / HEARD)
        heard.append(receiver.recv() if receiver.poll() else ("no answer", ""))
        process.kill()
    enough = known + QUERIES_MEANWHILE
    yield from until(lambda: context.recorded_queries() >= enough, HOLD_SECONDS / HEARD)


def send_large_messages(context: RunContext, fault: Fault) -> Injection:
    """`FaultKind.COMPRESSED`: noticed where all are refused and the coordinator does not grow."""
    while not fault.injected:
        yield from until(context.is_up)
        lives, before = context.coordinator.starts, resident_mib(context.coordinator.pid)
        process, receiver = context.cluster.start_stranger(
            fault.victim, fault.kind, send_compressed
        )
        fault.attempts += 1
        most = before
        try:
            while not receiver.poll():
                most = max(most, resident_mib(context.coordinator.pid))
                yield
            ended = receiver.recv()
        finally:
            process.kill()
        # A process that was only just started does not listen yet.
        same = context.is_up() and context.coordinator.starts == lives
        fault.injected = same and DOWN not in ended
        refused = not ended.keys() & {JOINED, EXPECTED_STATUS[FaultKind.TOKEN]}
        fault.noticed = refused and most - before < MOST_GROWTH
        fault.note = f"{json.dumps(ended)}, {most - before:+.0f} MiB"


def resident_mib(pid: int) -> float:
    """Resident memory of a process; 0 where there is none."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")), 0.0)


INTRUDER_FAULTS: dict[FaultKind, Callable[[RunContext, Fault], Injection]] = {
    **dict.fromkeys((*AUTHENTICATION_FAULTS, *ABSURD_CARDS), try_a_hello),
    FaultKind.SILENT: hold_calls,
    FaultKind.HEALTH: hold_calls,
    FaultKind.COMPRESSED: send_large_messages,
}
