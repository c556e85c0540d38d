"""Execute one run of a coordinator and inject its planned faults while it goes on.

Each injection is a generator that is resumed at every poll of the run, and ends when it has seen
the outcome of its fault. One thread does all of this, fifty times a second.
"""

import random
import resource
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fedkd.simulations.faults.cluster import Cluster, CoordinatorProcess
from fedkd.simulations.faults.deployment_files import LINGER, TIMEOUT
from fedkd.simulations.faults.fault_kinds import PROTOCOL_VIOLATIONS, Fault, FaultKind
from fedkd.simulations.faults.ledger_audit import (
    JournalEntry,
    LedgerRow,
    chain_error,
    ledger_rows,
    read_journal,
)
from fedkd.simulations.faults.malicious_institution import LEAVE_COMMAND
from fedkd.simulations.faults.stalling_teacher import STALL_STARTED, cancel_stall, request_stall

POLL_INTERVAL = 0.02
STALL_TIMEOUT = 300.0
"""Seconds without an event or a log line after which a run counts as hung."""
CHECKPOINT = 1.0
MAX_STARTS = 6
DISK_FULL_MESSAGES = ("cannot write", "no checkpoint could be written")
"""Messages of a coordinator whose disk is full: when it stops, and when it goes on."""
Injection = Iterator[None]
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
        before: rows of each ledger when the run began.
        broken: ledgers that did not verify after a kill.
    """

    out: Path
    seed: int
    faults: list[Fault]
    ended: bool = False
    hung: bool = False
    starts: int = 0
    seconds: float = 0.0
    stops: list[str] = field(default_factory=list)
    before: dict[str, int] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)


class FaultyRun:
    """A run of the coordinator, and the injection of faults into it.

    Args:
        cluster: all institutions.
        out: its folder, not there yet.
        seed: of the run.
        faults: to be injected, in the order of their queries.
        rng: of all that the plan leaves open.
        departures: malicious institutions that leave without a violation, and after which query.
    """

    def __init__(
        self,
        cluster: Cluster,
        out: Path,
        seed: int,
        faults: list[Fault],
        rng: random.Random,
        departures: Mapping[str, int] | None = None,
    ) -> None:
        self.cluster, self.rng = cluster, rng
        self.coordinator = CoordinatorProcess(cluster.files, out, seed, CHECKPOINT)
        self.result = FaultyRunResult(out, seed, faults)
        self._departures = dict(departures or {})
        self._stop_expected = False
        """Whether a fault has stopped the coordinator."""
        self._sizes: list[int] = []
        self._last_change = 0.0
        """Time of the last event or log line."""

    def execute(self, on_injected: Callable[[Fault], None] = lambda fault: None) -> FaultyRunResult:
        """Start the coordinator and wait for the end of the run, or until it hangs."""
        result, files = self.result, self.cluster.files
        result.before = {name: len(ledger_rows(files.ledger(name))) for name in files.names}
        planned, injections = list(result.faults), dict[int, tuple[Fault, Injection]]()
        started = self._last_change = time.monotonic()
        self.coordinator.start()
        while not self._over():
            if self._is_stalled() or self.coordinator.starts > MAX_STARTS:
                result.hung = True
                self.coordinator.kill()
                break
            recorded_queries = self.recorded_queries()
            while planned and planned[0].question <= recorded_queries:
                fault = planned.pop(0)
                injections[id(fault)] = fault, self._injection(fault)
            for name in [
                name for name, question in self._departures.items() if question <= recorded_queries
            ]:
                del self._departures[name]
                self.cluster.malicious[name].command(LEAVE_COMMAND)
            self.cluster.supervise()
            self._step_injections(injections, on_injected)
            self._resume_coordinator()
            time.sleep(POLL_INTERVAL)
        result.ended = (result.out / "result.json").exists() and not result.hung
        result.seconds, result.starts = time.monotonic() - started, self.coordinator.starts
        self._finish_injections(injections, on_injected)
        return result

    def recorded_queries(self) -> int:
        """Number of queries recorded so far in the events of the run."""
        path = self.result.out / "events.jsonl"
        return path.read_bytes().count(b'"kind": "asked"') if path.exists() else 0

    def _is_stalled(self) -> bool:
        """Whether nothing has happened for too long, however slow the machine is."""
        files = (self.result.out / "events.jsonl", self.coordinator.log)
        sizes = [file.stat().st_size for file in files if file.exists()]
        if sizes != self._sizes:
            self._sizes, self._last_change = sizes, time.monotonic()
        return time.monotonic() - self._last_change > STALL_TIMEOUT

    def _over(self) -> bool:
        return self.coordinator.status == 0

    def _resume_coordinator(self) -> None:
        """Resume a coordinator that no fault has stopped, and record that stop."""
        status = self.coordinator.status
        if status not in (None, 0) and not self._stop_expected:
            last = (self.coordinator.output().strip().splitlines() or ["no output"])[-1]
            self.result.stops.append(f"status {status}: {last}")
            self.coordinator.start()

    def _step_injections(
        self, injections: dict[int, tuple[Fault, Injection]], on_injected: Callable[[Fault], None]
    ) -> None:
        for key, (fault, injection) in list(injections.items()):
            if next(injection, "over") == "over":
                del injections[key]
                on_injected(fault)

    def _finish_injections(
        self, injections: dict[int, tuple[Fault, Injection]], on_injected: Callable[[Fault], None]
    ) -> None:
        """After the run: give unfinished injections a moment, then cancel them."""
        deadline = time.monotonic() + 2 * TIMEOUT
        while injections and time.monotonic() < deadline:
            self.cluster.supervise()
            self._step_injections(injections, on_injected)
            time.sleep(POLL_INTERVAL)
        for institution in self.cluster.honest.values():
            institution.send(signal.SIGCONT)
            cancel_stall(institution.folder)
        for malicious in self.cluster.malicious.values():
            malicious.command("")

    def _injection(self, fault: Fault) -> Injection:
        injection: dict[FaultKind, Callable[[Fault], Injection]] = {
            FaultKind.KILLED: self._kill_institution,
            FaultKind.HANG: self._hang,
            FaultKind.FROZEN: self._freeze,
            FaultKind.RESET: self._reset,
            FaultKind.DISK: self._fill_disk,
            FaultKind.COORDINATOR: self._kill_coordinator,
            FaultKind.TOKEN: self._join_without_credentials,
            FaultKind.CERTIFICATE: self._join_without_credentials,
            **dict.fromkeys(PROTOCOL_VIOLATIONS, self._violate_protocol),
        }
        yield from _pause(fault.delay)
        yield from injection[fault.kind](fault)

    # --- honest institutions

    def _kill_institution(self, fault: Fault) -> Injection:
        institution = self.cluster.honest[fault.victim]
        request_stall(institution.folder, STALL_TIMEOUT)
        while not (institution.folder / STALL_STARTED).exists():
            yield
        # It is at an answer now, and has charged it.
        starts = institution.starts
        institution.kill()
        self._mark_injected(fault)
        if broken := chain_error(self.cluster.files.ledger(fault.victim)):
            self.result.broken.append(f"{fault.victim}: {broken}")
        cancel_stall(institution.folder)
        while institution.starts == starts:
            yield
        fault.noticed = True
        yield from self._wait_until_asked_again(fault)

    def _hang(self, fault: Fault) -> Injection:
        institution = self.cluster.honest[fault.victim]
        request_stall(institution.folder, TIMEOUT + self.rng.uniform(0.2, 1.0))
        while not (institution.folder / STALL_STARTED).exists():
            yield
        self._mark_injected(fault)
        yield from self._wait_until_missing(fault, len(self._journal()))
        yield from self._wait_until_asked_again(fault)

    def _freeze(self, fault: Fault) -> Injection:
        institution = self.cluster.honest[fault.victim]
        known = len(self._journal())
        institution.send(signal.SIGSTOP)
        self._mark_injected(fault)
        yield from _pause(self.rng.uniform(2 * LINGER, TIMEOUT + 1.0))
        institution.send(signal.SIGCONT)
        yield from self._wait_until_missing(fault, known)
        yield from self._wait_until_asked_again(fault)

    def _reset(self, fault: Fault) -> Injection:
        while not (sockets := self.cluster.proxy.reset(fault.victim)):
            yield
        self._mark_injected(fault)
        fault.note, fault.noticed = f"{sockets} sockets", True
        yield from self._wait_until_asked_again(fault)

    def _mark_injected(self, fault: Fault) -> None:
        fault.before, fault.injected = len(self._rows(fault)), True

    def _wait_until_missing(self, fault: Fault, known: int) -> Injection:
        """Until the journal has it as missing, after its first ``known`` queries."""
        while not fault.noticed:
            fault.noticed = any(fault.victim in entry.missing for entry in self._journal()[known:])
            yield

    def _wait_until_asked_again(self, fault: Fault) -> Injection:
        """Until its ledger has new rows: it is asked again, in this run or in the next."""
        while not asked_again(fault, self.cluster.files.ledger(fault.victim)):
            yield
        fault.recovered = True

    def _rows(self, fault: Fault) -> list[LedgerRow]:
        return ledger_rows(self.cluster.files.ledger(fault.victim))

    def _journal(self) -> list[JournalEntry]:
        return read_journal(self.result.out / "replies.bin")

    # --- malicious institutions

    def _violate_protocol(self, fault: Fault) -> Injection:
        malicious = self.cluster.malicious[fault.victim]
        reports = len(malicious.reports)
        malicious.command(fault.kind)
        while not any(what == "did" for what, _ in malicious.reports[reports:]):
            yield
        fault.injected = True
        reports += next(
            n for n, output in enumerate(malicious.reports[reports:]) if output[0] == "did"
        )
        while not fault.noticed:
            statuses = [text for what, text in malicious.reports[reports:] if what == "status"]
            ends = [text for text in statuses if text.startswith("INVALID_ARGUMENT")]
            fault.noticed = any("banned from this run" in text for text in statuses)
            fault.note = next(iter(ends), "")
            yield

    def _join_without_credentials(self, fault: Fault) -> Injection:
        process, receiver = self.cluster.start_intruder(fault.victim, fault.kind)
        fault.injected = True
        while not receiver.poll():
            yield
        what, fault.note = receiver.recv()
        fault.noticed = what == "refused" and (
            fault.kind is FaultKind.CERTIFICATE or fault.note.startswith("UNAUTHENTICATED")
        )
        process.join(1.0)

    # --- the coordinator

    def _kill_coordinator(self, fault: Fault) -> Injection:
        while self._stop_expected or self.coordinator.status is not None:
            yield
        self._stop_expected = True
        self.coordinator.kill()
        fault.injected = fault.noticed = True
        self.coordinator.start()
        self._stop_expected = False
        yield

    def _fill_disk(self, fault: Fault) -> Injection:
        """Limit the file size of the coordinator's process to a little more than its journal."""
        while self._stop_expected or self.coordinator.status is not None:
            yield
        self._stop_expected = True
        size = (self.result.out / "replies.bin").stat().st_size
        limit = size + self.rng.randrange(1, 20_000)
        output = len(self.coordinator.output())
        resource.prlimit(self.coordinator.pid, resource.RLIMIT_FSIZE, (limit, limit))
        fault.injected = True
        while self.coordinator.status is None:
            yield
        self._stop_expected = False
        reports = self.coordinator.output()[output:]
        fault.noticed = any(message in reports for message in DISK_FULL_MESSAGES)
        fault.note = "; ".join(
            line for line in reports.splitlines() if DISK_FULL_MESSAGES[0] in line
        )
        if self.coordinator.status:
            self.coordinator.start()
        yield


def _pause(seconds: float) -> Injection:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        yield


def asked_again(fault: Fault, ledger: Path) -> bool:
    """Whether the victim was asked again; the first new row may be of the query in progress."""
    return len(ledger_rows(ledger)) > fault.before + 1
