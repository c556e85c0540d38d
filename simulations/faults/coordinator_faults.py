"""Faults of the coordinator's process, and of malicious institutions in a session with it."""

import resource
from collections.abc import Callable

from fedkd.simulations.faults.fault_kinds import PROTOCOL_VIOLATIONS, Fault, FaultKind
from fedkd.simulations.faults.run_context import Injection, RunContext, pause, until

DISK_FULL_MESSAGES = ("cannot write", "no checkpoint could be written")
"""Messages of a coordinator whose disk is full: when it stops, and when it goes on."""
MOST_ROOM = 20_000
"""Bytes that the full disk has left, at most."""
POLL_SECONDS = 0.5
"""Between two looks at the estimates of reliability."""
STOPPED = 2
"""Exit status of a coordinator that stops by itself, with a reason in one line."""


def kill_coordinator(context: RunContext, fault: Fault) -> Injection:
    """`FaultKind.COORDINATOR`."""
    yield from until(context.is_up)
    context.stop_expected = True
    context.coordinator.kill()
    fault.attempts += 1
    fault.injected = fault.noticed = True
    fault.note = f"killed after {context.recorded_queries()} queries, and resumed"
    context.coordinator.start()
    context.stop_expected = False


def fill_disk(context: RunContext, fault: Fault) -> Injection:
    """Limit the size of files of the coordinator's process to a little more than its journal.

    Where it stops for another reason before it has reached the limit, it is tried again.
    """
    coordinator = context.coordinator
    while not fault.noticed:
        yield from until(context.is_up)
        context.stop_expected = True
        size = (context.result.out / "replies.bin").stat().st_size
        limit = size + context.rng.randrange(1, MOST_ROOM)
        output = len(coordinator.output())
        resource.prlimit(coordinator.pid, resource.RLIMIT_FSIZE, (limit, limit))
        fault.attempts += 1
        fault.injected = True
        yield from until(lambda: coordinator.status is not None)
        context.stop_expected = False
        lines = coordinator.output()[output:].splitlines()
        told = [line for line in lines if any(part in line for part in DISK_FULL_MESSAGES)]
        fault.noticed = bool(told)
        fault.note = told[-1] if told else f"not reached: {lines[-1] if lines else 'no output'}"
        if coordinator.status not in (0, STOPPED):
            context.result.deaths.append(f"full disk: status {coordinator.status}")
        if coordinator.status == 0:
            return
        coordinator.start()


def violate_protocol(context: RunContext, fault: Fault) -> Injection:
    """One of `PROTOCOL_VIOLATIONS`: noticed once the banned institution is refused.

    It is tried again where the coordinator was stopped before it could read the message: then the
    session ended without INVALID_ARGUMENT, and the next process knows of nothing.
    """
    malicious, done = context.cluster.malicious[fault.victim], ("did", str(fault.kind))
    while not fault.noticed:
        start = len(malicious.reports)
        malicious.command(fault.kind)
        yield from until(lambda since=start: done in malicious.reports[since:])  # type: ignore[misc]
        fault.attempts += 1
        fault.injected = True
        start += malicious.reports[start:].index(done)
        lives = context.coordinator.starts
        while not fault.noticed:
            reports = malicious.reports[start:]
            ends = [text for what, text in reports if what == "status"]
            refused = [text for text in ends if "banned from this run" in text]
            fault.noticed = bool(refused)
            fault.note = next(iter(refused), f"told {ends[:1]}, and welcomed again")
            told = any(text.startswith("INVALID_ARGUMENT") for text in ends)
            unread = not told and context.coordinator.starts > lives
            if unread and ("welcome", "") in reports:
                break
            yield


def lie(context: RunContext, fault: Fault) -> Injection:
    """`FaultKind.LYING`: noticed where the coordinator leaves it out, and nobody who is honest."""
    liar = context.cluster.malicious[fault.victim]
    reports = len(liar.reports)
    liar.command(fault.kind)
    yield from until(lambda: ("did", fault.kind) in liar.reports[reports:])
    fault.attempts += 1
    fault.injected = True
    honest = set(context.cluster.files.honest)
    over = False
    while not over:
        over = context.coordinator.status == 0
        estimates = context.events_of("reliability")
        out = [each["samples"] for each in estimates if fault.victim in each["left_out"]]
        last = estimates[-1]["left_out"] if estimates else {}
        fault.noticed = fault.victim in last and not honest & last.keys()
        fault.note = f"left out in {len(out)} of {len(estimates)} estimates"
        if out:
            classes = len(last.get(fault.victim, ()))
            fault.note += f", first after {out[0]} samples; at last {classes} of its classes"
        yield from pause(POLL_SECONDS)


COORDINATOR_FAULTS: dict[FaultKind, Callable[[RunContext, Fault], Injection]] = {
    **dict.fromkeys(PROTOCOL_VIOLATIONS, violate_protocol),
    FaultKind.LYING: lie,
    FaultKind.DISK: fill_disk,
    FaultKind.COORDINATOR: kill_coordinator,
}
