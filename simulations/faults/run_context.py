"""What the injections of one run share: its processes and files, its outcome, who is busy.

An injection is a generator that is resumed at every poll of the run, and ends when it has seen the
outcome of its fault. When the run is over it is closed, so whatever it holds it gives back in a
``finally``.
"""

import json
import random
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedkd.simulations.faults.cluster import Cluster, CoordinatorProcess
from fedkd.simulations.faults.fault_kinds import Fault
from fedkd.simulations.faults.ledger_audit import (
    JournalEntry,
    LedgerRow,
    ledger_rows,
    read_journal,
    row_count,
)

Injection = Generator[None, None, None]
"""A fault in progress: see the module."""


@dataclass
class FaultyRunResult:
    """The outcome of one run.

    Attributes:
        out: its folder.
        seed: of the run.
        faults: that were planned.
        ended: whether its result is written.
        hung: whether it stopped making progress.
        starts: of its coordinator.
        seconds: of the run.
        stops: of the coordinator that no fault had caused, each with its last line.
        deaths: of the coordinator that no fault had caused, by a signal or an unexpected error.
        before: rows of each ledger when the run began.
        broken: ledgers that did not verify after a kill.
        other_queries: of a second coordinator, which no journal has.
        left_out: institutions that the last estimate of reliability left out.
    """

    out: Path
    seed: int
    faults: list[Fault]
    ended: bool = False
    hung: bool = False
    starts: int = 0
    seconds: float = 0.0
    stops: list[str] = field(default_factory=list)
    deaths: list[str] = field(default_factory=list)
    before: dict[str, int] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    other_queries: list[JournalEntry] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


@dataclass
class RunContext:
    """Shared by the injections of one run.

    Attributes:
        cluster: all institutions.
        coordinator: of the run.
        result: of the run, so far.
        rng: of all that the plan leaves open.
        stop_expected: whether a fault has stopped the coordinator.
        busy: honest institutions that have a fault now; a second one waits.
    """

    cluster: Cluster
    coordinator: CoordinatorProcess
    result: FaultyRunResult
    rng: random.Random
    stop_expected: bool = False
    busy: set[str] = field(default_factory=set)
    _journal: tuple[int, list[JournalEntry]] = (0, [])
    """Size of the journal's file when it was read, and what it held."""

    @property
    def events(self) -> Path:
        """The file of the run's events."""
        return self.result.out / "events.jsonl"

    def recorded_queries(self) -> int:
        """Number of queries recorded so far in the events of the run."""
        return self.events.read_bytes().count(b'"kind": "asked"') if self.events.exists() else 0

    def events_of(self, kind: str) -> list[dict[str, Any]]:
        """Facts of the events of one kind; a line that is being written is left out."""
        if not self.events.exists():
            return []
        mark = f'"kind": "{kind}"'.encode()
        lines = self.events.read_bytes().split(b"\n")[:-1]
        return [json.loads(line) for line in lines if mark in line]

    def journal(self) -> list[JournalEntry]:
        """Every query that the run has recorded."""
        path = self.result.out / "replies.bin"
        size = path.stat().st_size if path.exists() else 0
        if size != self._journal[0]:
            self._journal = size, read_journal(path) if size else []
        return self._journal[1]

    def rows(self, name: str) -> list[LedgerRow]:
        """All rows of an institution's ledger."""
        return ledger_rows(self.cluster.files.ledger(name))

    def mark_injected(self, fault: Fault) -> None:
        """The fault of an honest institution is injected now."""
        fault.before, fault.injected = row_count(self.cluster.files.ledger(fault.victim)), True
        fault.attempts += 1

    def is_up(self) -> bool:
        """Whether the coordinator runs, and no fault is about to stop it."""
        return self.coordinator.status is None and not self.stop_expected


def pause(seconds: float) -> Injection:
    """Wait so long."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        yield


def until(condition: Callable[[], object], seconds: float = float("inf")) -> Injection:
    """Wait until the condition is true, at most so long."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        yield


def until_missing(
    context: RunContext,
    fault: Fault,
    known: int,
    why: str = "",
    gone: Callable[[], bool] = lambda: False,
) -> Injection:
    """Until the journal has the victim as missing, after its first ``known`` queries.

    Args:
        context: of the run.
        fault: noticed then, with the query and the reason as its note.
        known: queries.
        why: part of the reason; others do not count.
        gone: whether it makes no sense to wait any longer.
    """
    fault.note = f"no query was recorded after the {known}th"
    while not (fault.noticed or gone()):
        entries = context.journal()[known:]
        reasons = [entry.missing.get(fault.victim) for entry in entries]
        for number, reason in enumerate(reasons, known + 1):
            if reason is not None and why in reason:
                fault.noticed, fault.note = True, f"query {number}: {reason}"
                return
        if entries:
            fault.note = f"of queries {known + 1} to {known + len(entries)} none says so"
        yield


def asked_again(fault: Fault, ledger: Path) -> bool:
    """Whether the victim was asked again; the first new row may be of the query in progress."""
    return ledger.exists() and row_count(ledger) > fault.before + 1
