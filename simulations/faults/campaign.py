"""A campaign of faults: runs with faults, reference runs without, and an audit of all ledgers.

Bans of malicious institutions make the ensemble smaller, which is no effect of a fault. So in the
reference runs the malicious institutions leave by themselves, each after the query at which it
violates the protocol in all other runs of that seed, the liar after the first; and a run is
compared with references of its own seed. These come last: every institution must have recovered.
"""

import random
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from fedkd.client.institution.student_weight_loading import open_student
from fedkd.evaluation import accuracy, predict_logits
from fedkd.simulations.engines import evaluation
from fedkd.simulations.faults.cluster import Cluster, prepare_forkserver, wait_until
from fedkd.simulations.faults.deployment_audit import audit_ledgers
from fedkd.simulations.faults.deployment_files import QUESTIONS, DeploymentFiles
from fedkd.simulations.faults.fault_kinds import (
    EXPECTED_OUTCOMES,
    INSTITUTION_FAULTS,
    STRANGER_FAULTS,
    Fault,
    FaultKind,
)
from fedkd.simulations.faults.fault_plan import departure_schedule, plan_faults
from fedkd.simulations.faults.faulty_run import FaultyRun
from fedkd.simulations.faults.proxy import Proxy
from fedkd.simulations.faults.run_context import FaultyRunResult, asked_again

HONEST_COUNT, MALICIOUS_COUNT = 5, 5
LIAR = "liar"
SEEDS = (0, 1)
START_TIMEOUT = 120.0
"""Seconds for all institutions to be ready."""
TOLERANCE = 0.02
"""Accuracy by which a student may be worse than those of the reference runs."""


class FaultCampaign:
    """Runs with faults and reference runs, in a folder of their own.

    Args:
        folder: empty at first.
        faults: number to inject, > 0.
        seed: of kinds, times and victims.
        references: runs without faults, for each seed of a run.
        minutes: for all runs, reference runs included.
        on_progress: called with a description and the number of injected faults.
    """

    def __init__(
        self,
        folder: Path,
        faults: int,
        seed: int,
        references: int,
        minutes: float,
        on_progress: Callable[[str, int], None],
    ) -> None:
        self._rng, self._fault_count, self._seed = random.Random(seed), faults, seed
        self._reference_count, self._on_progress = references, on_progress
        self._deadline = time.monotonic() + 60 * minutes
        self.files = DeploymentFiles(
            folder,
            [f"clinic-{number}" for number in range(HONEST_COUNT)],
            [f"malicious-{number}" for number in range(MALICIOUS_COUNT)],
            [LIAR],
            [f"stranger-{number}" for number in range(len(STRANGER_FAULTS))],
        )
        self.faulty: list[FaultyRunResult] = []
        self.reference_runs: list[FaultyRunResult] = []

    @property
    def injected(self) -> int:
        """Number of injected faults."""
        return sum(fault.injected for result in self.faulty for fault in result.faults)

    def run(self) -> dict[str, Any]:
        """Run the campaign; returns the figures for the JSON file."""
        started, files = time.monotonic(), self.files
        (files.folder / "runs").mkdir(parents=True)
        torch.set_num_threads(1)
        prepare_forkserver()
        proxy = Proxy(files.names, files.port)
        files.create(proxy.ports, lambda name: self._on_progress(f"teacher of {name}", 0))
        with Cluster(files, proxy, self._seed) as cluster:
            wait_until(
                lambda: all(files.ledger(n).exists() for n in files.names),
                START_TIMEOUT,
                cluster.supervise,
            )
            while self.injected < self._fault_count and self._time_left():
                self._run_with_faults(cluster)
            for seed in SEEDS[: len(self.faulty)]:
                for _ in range(self._reference_count):
                    self._run_without_faults(cluster, seed)
        proxy.close()
        return self._figures(time.monotonic() - started)

    def _time_left(self) -> bool:
        """Whether one more run with faults leaves enough time for the reference runs."""
        longest = max((result.seconds for result in self.faulty), default=0.0)
        ahead = 1 + self._reference_count * len(SEEDS)
        return time.monotonic() + ahead * longest < self._deadline

    def _run_with_faults(self, cluster: Cluster) -> None:
        number, limit = len(self.faulty), self._fault_count - self.injected
        seed = SEEDS[number % len(SEEDS)]
        departures = departure_schedule(seed, self.files.malicious, QUESTIONS)
        strangers, honest = self.files.strangers, self.files.honest
        faults = plan_faults(self._rng, honest, departures, LIAR, strangers, QUESTIONS, limit)
        lies = any(fault.kind is FaultKind.LYING for fault in faults)
        out = self.files.folder / "runs" / f"{number}"
        run = FaultyRun(cluster, out, seed, faults, self._rng, {} if lies else {LIAR: 0})
        done = self.injected

        def report(fault: Fault) -> None:
            injected = done + sum(each.injected for each in faults)
            self._on_progress(f"run {number}: {fault.kind.value}", injected)

        self.faulty.append(run.execute(report))

    def _run_without_faults(self, cluster: Cluster, seed: int) -> None:
        number = len(self.reference_runs)
        self._on_progress(f"run without faults {number}", self.injected)
        departures = departure_schedule(seed, self.files.malicious, QUESTIONS) | {LIAR: 0}
        out = self.files.folder / "runs" / f"calm-{number}"
        self.reference_runs.append(
            FaultyRun(cluster, out, seed, [], self._rng, departures).execute()
        )

    # --- results

    def _figures(self, seconds: float) -> dict[str, Any]:
        found = audit_ledgers(self.files, [*self.faulty, *self.reference_runs])
        reference = {seed: self._mean(seed) for seed in SEEDS}
        runs = [self._run_row(result, reference[result.seed]) for result in self.faulty]
        differences = [row["difference"] for row in runs if row["difference"] is not None]
        results = [*self.faulty, *self.reference_runs]
        return {
            "injected": self.injected,
            "runs": len(self.faulty),
            "ended": sum(result.ended for result in self.faulty),
            "hangs": sum(result.hung for result in results),
            "lost": len(found.lost_answers),
            "double_charges": found.double_charges,
            "uncharged": found.uncharged_answers,
            "broken_ledgers": len(found.broken),
            "deaths": sum(len(result.deaths) for result in results),
            "honest_left_out": sum(bool(self._honest_left_out(result)) for result in results),
            "stops_without_cause": sum(len(result.stops) for result in results),
            "resumed": sum(result.starts - 1 for result in self.faulty),
            "answers": found.answers,
            "ledger_rows": found.ledger_rows,
            "within_2_points": sum(each >= -TOLERANCE for each in differences),
            "mean_difference": sum(differences) / len(differences) if differences else None,
            "worst_difference": min(differences, default=None),
            "references": {str(seed): value for seed, value in reference.items()},
            "kinds": [self._kind_row(kind) for kind in FaultKind],
            "unnoticed": self._faults(lambda fault: fault.injected and not fault.noticed),
            "not_injected": self._faults(lambda fault: not fault.injected),
            "each_run": runs,
            "calm_runs": [
                self._run_row(result, reference[result.seed]) for result in self.reference_runs
            ],
            "details": [
                *found.lost_answers,
                *found.broken,
                *(line for result in results for line in result.deaths),
            ],
            "seed": self._seed,
            "seconds": round(seconds, 1),
        }

    def _faults(self, which: Callable[[Fault], bool]) -> list[str]:
        """A line with the evidence for each fault of which this is true."""
        return [
            f"run {result.out.name}: {fault.kind.value}: {fault.note or 'the run was over before'}"
            for result in self.faulty
            for fault in result.faults
            if which(fault)
        ]

    def _kind_row(self, kind: FaultKind) -> dict[str, Any]:
        injected = [(p, f) for p in self.faulty for f in p.faults if f.kind is kind and f.injected]
        return {
            "kind": kind.value,
            "injected": len(injected),
            "noticed": sum(fault.noticed for _, fault in injected),
            "recovered": sum(self._recovered(result, fault) for result, fault in injected),
            "right": EXPECTED_OUTCOMES[kind],
        }

    def _honest_left_out(self, result: FaultyRunResult) -> set[str]:
        """Honest institutions that the last estimate of a run did not trust on some class."""
        return {name for name in result.left_out if name in self.files.honest}

    def _recovered(self, result: FaultyRunResult, fault: Fault) -> bool:
        if fault.kind in INSTITUTION_FAULTS:
            return asked_again(fault, self.files.ledger(fault.victim))
        return result.ended

    def _run_row(self, result: FaultyRunResult, reference: float | None) -> dict[str, Any]:
        score = self._score(result)
        known = score is not None and reference is not None
        return {
            "run": result.out.name,
            "seed": result.seed,
            "ended": result.ended,
            "accuracy": score,
            "difference": score - reference if known else None,  # type: ignore[operator]
            "lives": result.starts,
            "seconds": round(result.seconds, 1),
            "stops": result.stops,
            "deaths": result.deaths,
            "left_out": result.left_out,
            "faults": [{**asdict(fault), "kind": fault.kind.name} for fault in result.faults],
        }

    def _mean(self, seed: int) -> float | None:
        scores = [self._score(result) for result in self.reference_runs if result.seed == seed]
        known = [score for score in scores if score is not None]
        return sum(known) / len(known) if known else None

    def _score(self, result: FaultyRunResult) -> float | None:
        """Accuracy of the student on all test data, which only the campaign sees."""
        if not result.ended:
            return None
        test = evaluation.load_dataset("digits", None)
        student = open_student(result.out / "student.safetensors").network
        return accuracy(predict_logits(student, test.test_images), test.test_labels)
