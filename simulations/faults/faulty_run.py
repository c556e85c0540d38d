"""Execute one run of a coordinator and inject its planned faults while it goes on.

One thread resumes all injections (`run_context`) and looks after all processes, fifty times a
second.
"""

import random
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from fedkd.simulations.faults.cluster import Cluster, CoordinatorProcess
from fedkd.simulations.faults.coordinator_faults import COORDINATOR_FAULTS, STOPPED
from fedkd.simulations.faults.deployment_files import TIMEOUT
from fedkd.simulations.faults.fault_kinds import INSTITUTION_FAULTS, Fault
from fedkd.simulations.faults.institution_faults import inject_into_institution
from fedkd.simulations.faults.intruder_faults import INTRUDER_FAULTS
from fedkd.simulations.faults.ledger_audit import row_count
from fedkd.simulations.faults.malicious_institution import LEAVE_COMMAND
from fedkd.simulations.faults.run_context import FaultyRunResult, Injection, RunContext, pause
from fedkd.simulations.faults.stalling_teacher import cancel_stall, request_slowness

POLL_INTERVAL = 0.02
STALL_TIMEOUT = 300.0
"""Seconds without an event or a log line after which a run counts as hung."""
CHECKPOINT = 1.0
MAX_STARTS = 8
INJECTIONS = {**dict.fromkeys(INSTITUTION_FAULTS, inject_into_institution), **INTRUDER_FAULTS}
INJECTIONS |= COORDINATOR_FAULTS
"""How each kind of fault is injected."""


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
        self.cluster = cluster
        self.coordinator = CoordinatorProcess(cluster.files, out, seed, CHECKPOINT)
        self.result = FaultyRunResult(out, seed, faults)
        self._context = RunContext(cluster, self.coordinator, self.result, rng)
        self._departures = dict(departures or {})
        self._injections: list[tuple[Fault, Injection]] = []
        self._sizes: list[int] = []
        self._last_change = 0.0
        """Time of the last event or log line."""

    def execute(self, on_injected: Callable[[Fault], None] = lambda fault: None) -> FaultyRunResult:
        """Start the coordinator and wait for the end of the run, or until it hangs."""
        result, files = self.result, self.cluster.files
        result.before = {name: row_count(files.ledger(name)) for name in files.names}
        planned, deaths = list(result.faults), len(self.cluster.deaths)
        started = self._last_change = time.monotonic()
        self.coordinator.start()
        while self.coordinator.status != 0:
            if self._is_stalled() or self.coordinator.starts > MAX_STARTS:
                result.hung = True
                self.coordinator.kill()
                break
            recorded = self._context.recorded_queries()
            while planned and planned[0].question <= recorded:
                fault = planned.pop(0)
                self._injections.append((fault, _injection(self._context, fault)))
            self._let_leave(recorded)
            self.cluster.supervise()
            self._step_injections(on_injected)
            self._resume_coordinator()
            time.sleep(POLL_INTERVAL)
        result.ended = (result.out / "result.json").exists() and not result.hung
        result.seconds, result.starts = time.monotonic() - started, self.coordinator.starts
        self._finish_injections(on_injected)
        estimates = self._context.events_of("reliability")
        result.left_out = sorted(estimates[-1]["left_out"]) if estimates else []
        result.deaths += self.cluster.deaths[deaths:]
        return result

    def _is_stalled(self) -> bool:
        """Whether nothing has happened for too long, however slow the machine is."""
        files = (self._context.events, self.coordinator.log)
        sizes = [file.stat().st_size for file in files if file.exists()]
        if sizes != self._sizes:
            self._sizes, self._last_change = sizes, time.monotonic()
        return time.monotonic() - self._last_change > STALL_TIMEOUT

    def _let_leave(self, recorded: int) -> None:
        """Have malicious institutions leave whose query has come."""
        for name in [name for name, query in self._departures.items() if query <= recorded]:
            del self._departures[name]
            self.cluster.malicious[name].command(LEAVE_COMMAND)

    def _resume_coordinator(self) -> None:
        """Resume a coordinator that no fault has stopped, and record that stop or death."""
        status = self.coordinator.status
        if status in (None, 0) or self._context.stop_expected:
            return
        last = (self.coordinator.output().strip().splitlines() or ["no output"])[-1]
        ends = self.result.stops if status == STOPPED else self.result.deaths
        ends.append(f"coordinator: status {status}: {last}")
        self.coordinator.start()

    def _step_injections(self, on_injected: Callable[[Fault], None]) -> None:
        for each in list(self._injections):
            if next(each[1], "over") == "over":
                self._injections.remove(each)
                on_injected(each[0])

    def _finish_injections(self, on_injected: Callable[[Fault], None]) -> None:
        """After the run: give unfinished injections a moment, then close them."""
        deadline = time.monotonic() + 2 * TIMEOUT
        while self._injections and time.monotonic() < deadline:
            self.cluster.supervise()
            self._step_injections(on_injected)
            time.sleep(POLL_INTERVAL)
        for _, injection in self._injections:
            injection.close()
        for institution in self.cluster.honest.values():
            institution.send(signal.SIGCONT)
            cancel_stall(institution.folder)
            request_slowness(institution.folder, False)
        for malicious in self.cluster.malicious.values():
            malicious.command("")


def _injection(context: RunContext, fault: Fault) -> Injection:
    yield from pause(fault.delay)
    yield from INJECTIONS[fault.kind](context, fault)
