"""Benchmark of the engine ``local`` with ten, a hundred and a thousand institutions.

    python -m fedkd.simulations.benchmarks.many_institutions [--json FILE] [--quick]

Each count has a process of its own, to measure its memory. Times are CPU times: one process does
all of it, and the machine is shared. Institutions are complete: vault, release gate and ledger.
Their teachers are small and hardly trained, which costs as much to ask.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from fedkd.aggregation.fusion_of_cards import cached_fusion
from fedkd.experiment import Experiment, parse_experiment
from fedkd.loop import Distillation
from fedkd.protocol import Ask, Request
from fedkd.server.coordinator import ingredients
from fedkd.simulations.benchmarks import timing
from fedkd.simulations.benchmarks.batched_teachers import (
    Shape,
    build_teachers,
    grouped,
    one_by_one,
    vmapped,
)
from fedkd.simulations.engines.local import LocalInstitutions

COUNTS, QUICK_COUNTS = (10, 100, 1000), (10, 100)
ROUNDS = 6
"""Counted rounds, after one that is not counted."""
BATCH = 64
IMAGES_PER_INSTITUTION = 4
"""Training images of an institution."""
STEPS = 6
"""Student steps in a round, as in ``digits``."""
BATCHED_MODELS: tuple[tuple[str, Shape], ...] = (
    ("cnn", (1, 8, 8)),
    ("mlp", (1, 8, 8)),
    ("lenet5", (1, 28, 28)),
    ("mlp", (1, 28, 28)),
)
BATCHED_TEACHERS = 50
"""Teachers in the comparison of batched evaluation."""


@dataclass(frozen=True)
class Cost:
    """Cost of one count of institutions: median CPU milliseconds of a round."""

    institutions: int
    opened: float
    """Seconds until all institutions and their teachers are created."""
    answers: float
    """Release gate, ledger and teacher of every institution."""
    fusion: float
    """RuleFusion of T replies into one target."""
    rest: float
    """Generating images, storing targets, student steps."""
    megabytes: float
    """Peak memory of the process."""

    @property
    def round(self) -> float:
        """The whole round."""
        return self.answers + self.fusion + self.rest


def measure_cost(institutions: int, folder: Path) -> Cost:
    """Measure in this process; the memory is that of the whole process."""
    torch.set_num_threads(1)
    experiment = _experiment(institutions, folder)
    began = time.process_time()
    local = LocalInstitutions(experiment, folder / "teachers", lambda count: None)
    opened = time.process_time() - began
    parts = ingredients(experiment, local.cards)
    run = Distillation(
        *(parts.student, parts.method, list(local.cards), parts.plan, parts.priors),
    )
    loop = run.requests()
    request: Request = next(loop)
    samples = []
    for _ in range(1 + ROUNDS):
        times = [time.process_time()]
        answers, _ = local.answer(request)
        times.append(time.process_time())
        cached_fusion(parts.plan.rule, local.cards, parts.plan.prior).of(answers)
        times.append(time.process_time())
        request = loop.send(answers)
        times.append(time.process_time())
        if not isinstance(request, Ask):
            raise RuntimeError("the questions ended before the measurement")
        asked, fused, sent = np.diff(times)
        samples.append((asked, fused, max(0.0, sent - fused)))  # the loop fuses once more
    answered, fused, rest = (
        1e3 * statistics.median(each) for each in zip(*samples[1:], strict=True)
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return Cost(institutions, opened, answered, fused, rest, peak)


def _experiment(institutions: int, folder: Path) -> Experiment:
    """Institutions of a few random images each, with the teachers of ``digits``."""
    path, images = folder / "images.npz", institutions * IMAGES_PER_INSTITUTION
    rng = np.random.default_rng(0)
    np.savez(
        path,
        train_images=rng.integers(0, 256, (images, 8, 8), dtype=np.uint8),
        train_labels=np.arange(images) % 10,
        test_images=rng.integers(0, 256, (10, 8, 8), dtype=np.uint8),
        test_labels=np.arange(10),
    )
    questions = 10 * (1 + ROUNDS)  # more than are measured, spread as in a run
    return parse_experiment(
        {
            "name": "scale",
            "institutions": {
                **{"data": f"npz:{path}", "count": institutions},
                **{"partition": "iid", "epochs": 1},
            },
            "method": {"distillation_loss": "kl"},
            "questions": {"budget": questions * BATCH, "batch": BATCH, "asking": 1.0},
            "student": {"steps": questions * STEPS},
        }
    )


def measure_costs(counts: tuple[int, ...]) -> list[Cost]:
    """Measure each count, in a new process."""
    costs = []
    for count in counts:
        with tempfile.TemporaryDirectory(prefix="fedkd-scale-") as folder:
            command = [
                sys.executable,
                "-m",
                "fedkd.simulations.benchmarks.many_institutions",
                "--one",
                folder,
            ]
            output = subprocess.run(
                [*command, str(count)], stdout=subprocess.PIPE, text=True, check=True
            )
            costs.append(Cost(**json.loads(output.stdout.splitlines()[-1])))
    return costs


def compare_batching(seconds: float) -> dict[str, dict[str, timing.Timing]]:
    """Compare one-by-one with batched evaluation of teachers: times for a teacher and batch."""
    torch.set_num_threads(1)
    costs = {}
    for model, shape in BATCHED_MODELS:
        networks, images = build_teachers(model, shape, BATCHED_TEACHERS), torch.rand(BATCH, *shape)
        alternatives = {"one by one": one_by_one(networks)}
        alternatives |= {f"vmap, {n} at once": vmapped(networks, n) for n in (10, BATCHED_TEACHERS)}
        if model == "cnn":
            alternatives["norms folded, alone"] = grouped(networks, 1)
            alternatives |= {f"norms folded, grouped {n}": grouped(networks, n) for n in (2, 10)}
        measured = [
            timing.Alternative(name, partial(ask, images), unit=BATCHED_TEACHERS, calls=1)
            for name, ask in alternatives.items()
        ]
        costs[f"{model} {'x'.join(map(str, shape))}"] = timing.measure_interleaved(
            measured, seconds, 1
        )
    return costs


def _print_tables(costs: list[Cost], figures: dict[str, dict[str, timing.Timing]]) -> None:
    head = ("institutions", "opened s", "round ms", "answers", "fusion", "rest")
    timing.print_table(
        f"CPU of a round of {BATCH} images and {STEPS} student steps",
        (*head, "fusion %", "x before", "peak MB"),
        [
            (
                f"{each.institutions:,}",
                f"{each.opened:.1f}",
                *(f"{v:.1f}" for v in (each.round, each.answers, each.fusion, each.rest)),
                f"{100 * each.fusion / each.round:.1f}",
                f"{each.round / before.round:.1f}" if before else "",
                f"{each.megabytes:.0f}",
            )
            for before, each in zip([None, *costs], costs, strict=False)
        ],
    )
    for name, alternatives in figures.items():
        timing.print_table(
            f"{name}, {BATCHED_TEACHERS} teachers, a teacher's share of a batch of {BATCH}",
            timing.TIMING_HEADER,
            timing.timing_rows(alternatives, "one by one"),
        )


def main(arguments: list[str] | None = None) -> int:
    """Entry point; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m fedkd.simulations.benchmarks.many_institutions", description=__doc__
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument(
        "--quick", action="store_true", help="at most a hundred institutions, and a second each"
    )
    parser.add_argument("--one", nargs=2, metavar=("FOLDER", "COUNT"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one is not None:
        print(json.dumps(asdict(measure_cost(int(options.one[1]), Path(options.one[0])))))
        return 0
    costs = measure_costs(QUICK_COUNTS if options.quick else COUNTS)
    figures = compare_batching(1.0 if options.quick else 10.0)
    _print_tables(costs, figures)
    stacked = {
        m: {w: asdict(f) for w, f in alternatives.items()} for m, alternatives in figures.items()
    }
    timing.write_json({"scale": [asdict(each) for each in costs], "stacked": stacked}, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
