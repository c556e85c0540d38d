"""One run, and what happens to it on the way. Knows processes by what may be done to them.

Every fault is a generator that is resumed at each look at the run, and ends when it has seen what
comes of the fault. All of this is one thread, which looks fifty times a second.
"""

import random
import resource
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fedkd.simulations.faults.cluster import Cast, Coordinator
from fedkd.simulations.faults.deployment_files import LINGER, TIMEOUT
from fedkd.simulations.faults.fault_kinds import MISDEEDS, Fault, Kind
from fedkd.simulations.faults.ledger_audit import Asked, Row, journal, objection, rows
from fedkd.simulations.faults.malicious_institution import LEAVE
from fedkd.simulations.faults.stalling_teacher import OBEYED, command, excuse

LOOK_AGAIN = 0.02
LONGEST = 300.0
"""Seconds in which something must happen in a run: an event, or a line of its coordinator's."""
CHECKPOINT = 1.0
MOST_LIVES = 6
FULL = ("cannot write", "no checkpoint could be written")
"""What a coordinator says whose disk is full: as it stops, and as it goes on."""
Course = Iterator[None]


@dataclass
class Passed:
    """What came of one run.

    Attributes:
        out: its folder.
        seed: of the run.
        faults: that were planned.
        ended: its result is written.
        hung: nothing happened in it any more.
        lives: of its coordinator.
        stops: that nothing of ours had caused; each with the coordinator's last line.
        before: rows of each ledger when it began.
        broken: ledgers that did not hold together after a kill.
    """

    out: Path
    seed: int
    faults: list[Fault]
    ended: bool = False
    hung: bool = False
    lives: int = 0
    seconds: float = 0.0
    stops: list[str] = field(default_factory=list)
    before: dict[str, int] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)


class Run:
    """A run in progress.

    Args:
        cast: everybody but the coordinator.
        out: its folder, not there yet.
        seed: of the run.
        faults: to be injected, by rising question.
        rng: of what the faults leave open.
        departures: saboteurs that leave in peace, and after which question.
    """

    def __init__(
        self,
        cast: Cast,
        out: Path,
        seed: int,
        faults: list[Fault],
        rng: random.Random,
        departures: Mapping[str, int] | None = None,
    ) -> None:
        self.cast, self.rng = cast, rng
        self.coordinator = Coordinator(cast.site, out, seed, CHECKPOINT)
        self.passed = Passed(out, seed, faults)
        self._departures = dict(departures or {})
        self._expected = False
        """Whether a fault knows why the coordinator is not there."""
        self._sizes: list[int] = []
        self._moved = 0.0
        """When something happened last."""

    def play(self, watch: Callable[[Fault], None] = lambda fault: None) -> Passed:
        """From the coordinator's start to the run's end, or to the end of our patience."""
        passed, site = self.passed, self.cast.site
        passed.before = {name: len(rows(site.ledger(name))) for name in site.names}
        waiting, courses = list(passed.faults), dict[int, tuple[Fault, Course]]()
        began = self._moved = time.monotonic()
        self.coordinator.start()
        while not self._over():
            if self._stands_still() or self.coordinator.lives > MOST_LIVES:
                passed.hung = True
                self.coordinator.kill()
                break
            asked = self.asked()
            while waiting and waiting[0].question <= asked:
                fault = waiting.pop(0)
                courses[id(fault)] = fault, self._course(fault)
            for name in [name for name, question in self._departures.items() if question <= asked]:
                del self._departures[name]
                self.cast.saboteurs[name].order(LEAVE)
            self.cast.tend()
            self._advance(courses, watch)
            self._take_up()
            time.sleep(LOOK_AGAIN)
        passed.ended = (passed.out / "result.json").exists() and not passed.hung
        passed.seconds, passed.lives = time.monotonic() - began, self.coordinator.lives
        self._settle(courses, watch)
        return passed

    def asked(self) -> int:
        """Questions that are kept so far, as the run's record of events has it."""
        path = self.passed.out / "events.jsonl"
        return path.read_bytes().count(b'"kind": "asked"') if path.exists() else 0

    def _stands_still(self) -> bool:
        """Whether nothing has happened for too long: how slow the machine is does not matter."""
        files = (self.passed.out / "events.jsonl", self.coordinator.log)
        sizes = [file.stat().st_size for file in files if file.exists()]
        if sizes != self._sizes:
            self._sizes, self._moved = sizes, time.monotonic()
        return time.monotonic() - self._moved > LONGEST

    def _over(self) -> bool:
        return self.coordinator.status == 0

    def _take_up(self) -> None:
        """A coordinator that stopped for no reason of ours is resumed as well, and noted."""
        status = self.coordinator.status
        if status not in (None, 0) and not self._expected:
            last = (self.coordinator.said().strip().splitlines() or ["it said nothing"])[-1]
            self.passed.stops.append(f"status {status}: {last}")
            self.coordinator.start()

    def _advance(
        self, courses: dict[int, tuple[Fault, Course]], watch: Callable[[Fault], None]
    ) -> None:
        for key, (fault, course) in list(courses.items()):
            if next(course, "over") == "over":
                del courses[key]
                watch(fault)

    def _settle(
        self, courses: dict[int, tuple[Fault, Course]], watch: Callable[[Fault], None]
    ) -> None:
        """The run is over: what is still under way is given a moment, and then taken back."""
        deadline = time.monotonic() + 2 * TIMEOUT
        while courses and time.monotonic() < deadline:
            self.cast.tend()
            self._advance(courses, watch)
            time.sleep(LOOK_AGAIN)
        for agent in self.cast.agents.values():
            agent.send(signal.SIGCONT)
            excuse(agent.folder)
        for saboteur in self.cast.saboteurs.values():
            saboteur.order("")

    def _course(self, fault: Fault) -> Course:
        course: dict[Kind, Callable[[Fault], Course]] = {
            Kind.KILLED: self._kill_agent,
            Kind.HANG: self._hang,
            Kind.FROZEN: self._freeze,
            Kind.RESET: self._reset,
            Kind.DISK: self._fill_disk,
            Kind.COORDINATOR: self._kill_coordinator,
            Kind.TOKEN: self._intrude,
            Kind.CERTIFICATE: self._intrude,
            **dict.fromkeys(MISDEEDS, self._sin),
        }
        yield from _pause(fault.delay)
        yield from course[fault.kind](fault)

    # --- honest institutions

    def _kill_agent(self, fault: Fault) -> Course:
        agent = self.cast.agents[fault.victim]
        command(agent.folder, LONGEST)
        while not (agent.folder / OBEYED).exists():  # it is at an answer now, and has charged it
            yield
        starts = agent.starts
        agent.kill()
        self._happened(fault)
        if broken := objection(self.cast.site.ledger(fault.victim)):
            self.passed.broken.append(f"{fault.victim}: {broken}")
        excuse(agent.folder)
        while agent.starts == starts:
            yield
        fault.noticed = True
        yield from self._back(fault)

    def _hang(self, fault: Fault) -> Course:
        agent = self.cast.agents[fault.victim]
        command(agent.folder, TIMEOUT + self.rng.uniform(0.2, 1.0))
        while not (agent.folder / OBEYED).exists():
            yield
        self._happened(fault)
        yield from self._missed(fault, len(self._told()))
        yield from self._back(fault)

    def _freeze(self, fault: Fault) -> Course:
        agent = self.cast.agents[fault.victim]
        known = len(self._told())
        agent.send(signal.SIGSTOP)
        self._happened(fault)
        yield from _pause(self.rng.uniform(2 * LINGER, TIMEOUT + 1.0))
        agent.send(signal.SIGCONT)
        yield from self._missed(fault, known)
        yield from self._back(fault)

    def _reset(self, fault: Fault) -> Course:
        while not (sockets := self.cast.proxy.reset(fault.victim)):
            yield
        self._happened(fault)
        fault.note, fault.noticed = f"{sockets} sockets", True
        yield from self._back(fault)

    def _happened(self, fault: Fault) -> None:
        fault.before, fault.injected = len(self._rows(fault)), True

    def _missed(self, fault: Fault, known: int) -> Course:
        """Until the journal says so, behind its first ``known`` questions."""
        while not fault.noticed:
            fault.noticed = any(fault.victim in asked.missing for asked in self._told()[known:])
            yield

    def _back(self, fault: Fault) -> Course:
        """Until its ledger has new rows: it is asked again, in this run or in the next."""
        while not back(fault, self.cast.site.ledger(fault.victim)):
            yield
        fault.recovered = True

    def _rows(self, fault: Fault) -> list[Row]:
        return rows(self.cast.site.ledger(fault.victim))

    def _told(self) -> list[Asked]:
        return journal(self.passed.out / "replies.bin")

    # --- saboteurs

    def _sin(self, fault: Fault) -> Course:
        saboteur = self.cast.saboteurs[fault.victim]
        heard = len(saboteur.heard)
        saboteur.order(fault.kind)
        while not any(what == "did" for what, _ in saboteur.heard[heard:]):
            yield
        fault.injected = True
        heard += next(n for n, said in enumerate(saboteur.heard[heard:]) if said[0] == "did")
        while not fault.noticed:
            refused = [text for what, text in saboteur.heard[heard:] if what == "status"]
            ends = [text for text in refused if text.startswith("INVALID_ARGUMENT")]
            fault.noticed = any("banned from this run" in text for text in refused)
            fault.note = next(iter(ends), "")
            yield

    def _intrude(self, fault: Fault) -> Course:
        process, hears = self.cast.intruder(fault.victim, fault.kind)
        fault.injected = True
        while not hears.poll():
            yield
        what, fault.note = hears.recv()
        fault.noticed = what == "refused" and (
            fault.kind is Kind.CERTIFICATE or fault.note.startswith("UNAUTHENTICATED")
        )
        process.join(1.0)

    # --- the coordinator

    def _kill_coordinator(self, fault: Fault) -> Course:
        while self._expected or self.coordinator.status is not None:
            yield
        self._expected = True
        self.coordinator.kill()
        fault.injected = fault.noticed = True
        self.coordinator.start()
        self._expected = False
        yield

    def _fill_disk(self, fault: Fault) -> Course:
        """Let no file of the coordinator grow beyond what the journal has now, and a little."""
        while self._expected or self.coordinator.status is not None:
            yield
        self._expected = True
        size = (self.passed.out / "replies.bin").stat().st_size
        most = size + self.rng.randrange(1, 20_000)
        said = len(self.coordinator.said())
        resource.prlimit(self.coordinator.pid, resource.RLIMIT_FSIZE, (most, most))
        fault.injected = True
        while self.coordinator.status is None:
            yield
        self._expected = False
        heard = self.coordinator.said()[said:]
        fault.noticed = any(words in heard for words in FULL)
        fault.note = "; ".join(line for line in heard.splitlines() if FULL[0] in line)
        if self.coordinator.status:
            self.coordinator.start()
        yield


def _pause(seconds: float) -> Course:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        yield


def back(fault: Fault, ledger: Path) -> bool:
    """Whether the victim was asked anew: the row behind the last may be of the question at hand."""
    return len(rows(ledger)) > fault.before + 1
