"""Runs with faults, runs without, and what the books of all of them say. Knows no process.

The comparison is fair in what it leaves out. Saboteurs are struck off on the way, which makes a
smaller ensemble, whatever else happens. So the runs without faults have the same institutions, of
which the saboteurs leave in peace, each after the very question at which it sins in every other run
of that seed; and a run is compared with runs of its own seed. They come last: everybody who was
struck must be well again by then.
"""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from fedkd.client.config.owner_config import load
from fedkd.client.institution import owned
from fedkd.client.institution.submitted_student import opened
from fedkd.evaluation import accuracy, logits
from fedkd.simulations.engines import evaluation
from fedkd.simulations.faults import ledger_audit as audit
from fedkd.simulations.faults.cluster import Cast, ready, until
from fedkd.simulations.faults.deployment_files import LINGER, QUESTIONS, Site
from fedkd.simulations.faults.fault_kinds import (
    RIGHT,
    TO_INSTITUTIONS,
    Fault,
    Kind,
    departures,
    plan,
)
from fedkd.simulations.faults.faulty_run import Passed, Run, back
from fedkd.simulations.faults.proxy import Proxy

HONEST, SABOTEURS = 4, 5
SEEDS = (0, 1)
COMING = 120.0
"""Seconds for everybody to be ready."""
WITHIN = 0.02
"""By which a student may be worse than those of the runs without faults."""


@dataclass
class Findings:
    """What the books say, over all runs."""

    lost: list[str] = field(default_factory=list)
    double_charges: int = 0
    uncharged: int = 0
    answers: int = 0
    rows: int = 0
    broken: list[str] = field(default_factory=list)


class Campaign:
    """Everything, in a folder of its own.

    Args:
        folder: empty.
        faults: to inject, > 0.
        seed: of what happens when and to whom.
        references: runs without faults for each seed of a run.
        minutes: for all runs; those without faults come last, and time is left for them.
        say: is told what is done, and how many faults were injected by then.
    """

    def __init__(
        self,
        folder: Path,
        faults: int,
        seed: int,
        references: int,
        minutes: float,
        say: Callable[[str, int], None],
    ) -> None:
        self._rng, self._wanted, self._seed = random.Random(seed), faults, seed
        self._references, self._say = references, say
        self._deadline = time.monotonic() + 60 * minutes
        self.site = Site(
            folder,
            [f"clinic-{number}" for number in range(HONEST)],
            [f"saboteur-{number}" for number in range(SABOTEURS)],
        )
        self.faulty: list[Passed] = []
        self.calm: list[Passed] = []

    @property
    def injected(self) -> int:
        """Faults so far."""
        return sum(fault.injected for passed in self.faulty for fault in passed.faults)

    def hold(self) -> dict[str, Any]:
        """All of it; what stands in the file of figures."""
        began, site = time.monotonic(), self.site
        (site.folder / "runs").mkdir(parents=True)
        torch.set_num_threads(1)
        ready()
        proxy = Proxy(site.names, site.port)
        site.prepare(proxy.ports, lambda name: self._say(f"teacher of {name}", 0))
        with Cast(site, proxy, self._seed) as cast:
            until(lambda: all(site.ledger(n).exists() for n in site.names), COMING, cast.tend)
            while self.injected < self._wanted and self._time_left():
                self._strike(cast)
            for seed in SEEDS[: len(self.faulty)]:
                for _ in range(self._references):
                    self._leave_alone(cast, seed)
        proxy.close()
        return self._figures(time.monotonic() - began)

    def _time_left(self) -> bool:
        """Whether one more run with faults leaves enough for those without."""
        longest = max((passed.seconds for passed in self.faulty), default=0.0)
        ahead = 1 + self._references * len(SEEDS)
        return time.monotonic() + ahead * longest < self._deadline

    def _strike(self, cast: Cast) -> None:
        number, most = len(self.faulty), self._wanted - self.injected
        seed = SEEDS[number % len(SEEDS)]
        leaving = departures(seed, self.site.saboteurs, QUESTIONS)
        faults = plan(self._rng, self.site.honest, leaving, QUESTIONS, most)
        out = self.site.folder / "runs" / f"{number}"
        run = Run(cast, out, seed, faults, self._rng)
        done = self.injected

        def tell(fault: Fault) -> None:
            injected = done + sum(each.injected for each in faults)
            self._say(f"run {number}: {fault.kind.value}", injected)

        self.faulty.append(run.play(tell))

    def _leave_alone(self, cast: Cast, seed: int) -> None:
        number = len(self.calm)
        self._say(f"run without faults {number}", self.injected)
        leaving = departures(seed, self.site.saboteurs, QUESTIONS)
        out = self.site.folder / "runs" / f"calm-{number}"
        self.calm.append(Run(cast, out, seed, [], self._rng, leaving).play())

    # --- what came of it

    def _figures(self, seconds: float) -> dict[str, Any]:
        found = findings(self.site, [*self.faulty, *self.calm])
        reference = {seed: self._mean(seed) for seed in SEEDS}
        runs = [self._run_row(passed, reference[passed.seed]) for passed in self.faulty]
        told = [row["difference"] for row in runs if row["difference"] is not None]
        everything = [*self.faulty, *self.calm]
        return {
            "injected": self.injected,
            "runs": len(self.faulty),
            "ended": sum(passed.ended for passed in self.faulty),
            "hangs": sum(passed.hung for passed in everything),
            "lost": len(found.lost),
            "double_charges": found.double_charges,
            "uncharged": found.uncharged,
            "broken_ledgers": len(found.broken),
            "stops_without_cause": sum(len(passed.stops) for passed in everything),
            "resumed": sum(passed.lives - 1 for passed in self.faulty),
            "answers": found.answers,
            "ledger_rows": found.rows,
            "within_2_points": sum(each >= -WITHIN for each in told),
            "mean_difference": sum(told) / len(told) if told else None,
            "worst_difference": min(told, default=None),
            "references": {str(seed): value for seed, value in reference.items()},
            "kinds": [self._kind_row(kind) for kind in Kind],
            "each_run": runs,
            "calm_runs": [self._run_row(passed, reference[passed.seed]) for passed in self.calm],
            "details": [*found.lost, *found.broken],
            "seed": self._seed,
            "seconds": round(seconds, 1),
        }

    def _kind_row(self, kind: Kind) -> dict[str, Any]:
        both = [(p, f) for p in self.faulty for f in p.faults if f.kind is kind and f.injected]
        return {
            "kind": kind.value,
            "injected": len(both),
            "noticed": sum(fault.noticed for _, fault in both),
            "recovered": sum(self._recovered(passed, fault) for passed, fault in both),
            "right": RIGHT[kind],
        }

    def _recovered(self, passed: Passed, fault: Fault) -> bool:
        if fault.kind in TO_INSTITUTIONS:
            return back(fault, self.site.ledger(fault.victim))
        return passed.ended

    def _run_row(self, passed: Passed, reference: float | None) -> dict[str, Any]:
        score = self._score(passed)
        known = score is not None and reference is not None
        return {
            "run": passed.out.name,
            "seed": passed.seed,
            "ended": passed.ended,
            "accuracy": score,
            "difference": score - reference if known else None,  # type: ignore[operator]
            "lives": passed.lives,
            "seconds": round(passed.seconds, 1),
            "stops": passed.stops,
            "faults": [{**asdict(fault), "kind": fault.kind.name} for fault in passed.faults],
        }

    def _mean(self, seed: int) -> float | None:
        scores = [self._score(passed) for passed in self.calm if passed.seed == seed]
        known = [score for score in scores if score is not None]
        return sum(known) / len(known) if known else None

    def _score(self, passed: Passed) -> float | None:
        """On all test data, which nobody but the campaign sees."""
        if not passed.ended:
            return None
        test = evaluation.load_dataset("digits", None)
        student = opened(passed.out / "student.safetensors")
        return accuracy(logits(student, test.test_images), test.test_labels)


def findings(site: Site, everything: Sequence[Passed]) -> Findings:
    """The books of everybody, against the journals of all runs, in the order of these."""
    found = Findings()
    journals = [audit.journal(passed.out / "replies.bin") for passed in everything]
    for passed in everything:
        found.broken += passed.broken
    for name in site.names:
        books = audit.rows(site.ledger(name))
        found.double_charges += audit.double_charges(books)
        found.rows += len(books)
        if why := audit.objection(site.ledger(name)):
            found.broken.append(why)
        mark = owned(load(site.of(name) / "owner.toml")).mark
        starts = [*(passed.before[name] for passed in everything), len(books)]
        for number, told in enumerate(journals):
            mine = books[starts[number] : starts[number + 1]]
            earlier = [asked for before in journals[:number] for asked in before]
            found.answers += sum(name in asked.answered for asked in told)
            found.uncharged += audit.uncharged(name, mark, books, told)
            if name in site.honest:
                found.lost += [
                    f"run {everything[number].out.name}: {line}"
                    for line in audit.lost(name, mark, mine, told, LINGER, earlier)
                ]
    return found
