"""A campaign of faults: runs with faults, reference runs without, and an audit of all ledgers.

Bans of malicious institutions make the ensemble smaller, which is no effect of a fault. So in the
reference runs the malicious institutions leave by themselves, each after the query at which it
violates the protocol in all other runs of that seed, and a run is compared with references of its
own seed. These come last: every institution must have recovered by then.
"""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from fedkd.client.config.owner_config import load_owner_config
from fedkd.client.institution import owner_institution
from fedkd.client.institution.student_weight_loading import open_student
from fedkd.evaluation import accuracy, predict_logits
from fedkd.simulations.engines import evaluation
from fedkd.simulations.faults import ledger_audit
from fedkd.simulations.faults.cluster import Cluster, prepare_forkserver, wait_until
from fedkd.simulations.faults.deployment_files import LINGER, QUESTIONS, DeploymentFiles
from fedkd.simulations.faults.fault_kinds import (
    EXPECTED_OUTCOMES,
    INSTITUTION_FAULTS,
    Fault,
    FaultKind,
    departure_schedule,
    plan_faults,
)
from fedkd.simulations.faults.faulty_run import FaultyRun, FaultyRunResult, asked_again
from fedkd.simulations.faults.proxy import Proxy

HONEST_COUNT, MALICIOUS_COUNT = 4, 5
SEEDS = (0, 1)
START_TIMEOUT = 120.0
"""Seconds for all institutions to be ready."""
TOLERANCE = 0.02
"""Accuracy by which a student may be worse than those of the reference runs."""


@dataclass
class AuditFindings:
    """Findings of the ledger audit, over all runs."""

    lost_answers: list[str] = field(default_factory=list)
    double_charges: int = 0
    uncharged_answers: int = 0
    answers: int = 0
    ledger_rows: int = 0
    broken: list[str] = field(default_factory=list)


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
        faults = plan_faults(self._rng, self.files.honest, departures, QUESTIONS, limit)
        out = self.files.folder / "runs" / f"{number}"
        run = FaultyRun(cluster, out, seed, faults, self._rng)
        done = self.injected

        def report(fault: Fault) -> None:
            injected = done + sum(each.injected for each in faults)
            self._on_progress(f"run {number}: {fault.kind.value}", injected)

        self.faulty.append(run.execute(report))

    def _run_without_faults(self, cluster: Cluster, seed: int) -> None:
        number = len(self.reference_runs)
        self._on_progress(f"run without faults {number}", self.injected)
        departures = departure_schedule(seed, self.files.malicious, QUESTIONS)
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
            "stops_without_cause": sum(len(result.stops) for result in results),
            "resumed": sum(result.starts - 1 for result in self.faulty),
            "answers": found.answers,
            "ledger_rows": found.ledger_rows,
            "within_2_points": sum(each >= -TOLERANCE for each in differences),
            "mean_difference": sum(differences) / len(differences) if differences else None,
            "worst_difference": min(differences, default=None),
            "references": {str(seed): value for seed, value in reference.items()},
            "kinds": [self._kind_row(kind) for kind in FaultKind],
            "each_run": runs,
            "calm_runs": [
                self._run_row(result, reference[result.seed]) for result in self.reference_runs
            ],
            "details": [*found.lost_answers, *found.broken],
            "seed": self._seed,
            "seconds": round(seconds, 1),
        }

    def _kind_row(self, kind: FaultKind) -> dict[str, Any]:
        injected = [(p, f) for p in self.faulty for f in p.faults if f.kind is kind and f.injected]
        return {
            "kind": kind.value,
            "injected": len(injected),
            "noticed": sum(fault.noticed for _, fault in injected),
            "recovered": sum(self._recovered(result, fault) for result, fault in injected),
            "right": EXPECTED_OUTCOMES[kind],
        }

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
        student = open_student(result.out / "student.safetensors")
        return accuracy(predict_logits(student, test.test_images), test.test_labels)


def audit_ledgers(files: DeploymentFiles, results: Sequence[FaultyRunResult]) -> AuditFindings:
    """Compare the ledgers of all institutions with the journals of all runs, in their order."""
    found = AuditFindings()
    journals = [ledger_audit.read_journal(result.out / "replies.bin") for result in results]
    for result in results:
        found.broken += result.broken
    for name in files.names:
        rows = ledger_audit.ledger_rows(files.ledger(name))
        found.double_charges += ledger_audit.double_charges(rows)
        found.ledger_rows += len(rows)
        if why := ledger_audit.chain_error(files.ledger(name)):
            found.broken.append(why)
        fingerprint = owner_institution(
            load_owner_config(files.institution_folder(name) / "owner.toml")
        ).teacher_fingerprint
        starts = [*(result.before[name] for result in results), len(rows)]
        for number, journal in enumerate(journals):
            run_rows = rows[starts[number] : starts[number + 1]]
            earlier = [entry for previous in journals[:number] for entry in previous]
            found.answers += sum(name in entry.answered for entry in journal)
            found.uncharged_answers += ledger_audit.uncharged_answers(
                name, fingerprint, rows, journal
            )
            if name in files.honest:
                found.lost_answers += [
                    f"run {results[number].out.name}: {line}"
                    for line in ledger_audit.lost_answers(
                        name, fingerprint, run_rows, journal, LINGER, earlier
                    )
                ]
    return found
