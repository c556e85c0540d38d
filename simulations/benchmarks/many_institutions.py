"""What a simulation costs with ten, a hundred and a thousand institutions.

    python -m fedkd.simulations.benchmarks.many_institutions [--json FILE] [--quick]

Each count has a process of its own, so that its memory is its own. What is counted is CPU time:
one process does all of it, and a machine that others use has no other measure. Institutions are
whole ones, with vault, door and books; their teachers are small and have learned next to nothing,
which costs as much to ask.
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

from fedkd.aggregation.fusion import fusion_of
from fedkd.experiment import Experiment, parse
from fedkd.loop import Distillation
from fedkd.protocol import Ask, Request
from fedkd.server.coordinator import ingredients
from fedkd.simulations.benchmarks.batched_teachers import (
    Shape,
    grouped,
    one_by_one,
    teachers,
    vmapped,
)
from fedkd.simulations.engines.local import LocalInstitutions

COUNTS, QUICK_COUNTS = (10, 100, 1000), (10, 100)
ROUNDS = 6
"""That are counted, after one that is not."""
BATCH = 64
EACH = 4
"""Images of an institution."""
STEPS = 6
"""Of the student in a round, as ``digits`` has it."""
STACKED: tuple[tuple[str, Shape], ...] = (
    ("cnn", (1, 8, 8)),
    ("mlp", (1, 8, 8)),
    ("lenet5", (1, 28, 28)),
    ("mlp", (1, 28, 28)),
)
TOGETHER = 50
"""Teachers that the ways of asking are compared on."""


@dataclass(frozen=True)
class Cost:
    """Of one count. Milliseconds of CPU a round, the medians of several rounds."""

    institutions: int
    opened: float
    """Seconds until all institutions, each with a teacher, are there."""
    answers: float
    """ReleaseGate, books and teacher of every institution."""
    fusion: float
    """T replies into one target."""
    rest: float
    """Drawing images, keeping answers, the student's steps."""
    megabytes: float
    """Most memory that the process had."""

    @property
    def round(self) -> float:
        """All of it."""
        return self.answers + self.fusion + self.rest


def cost(institutions: int, folder: Path) -> Cost:
    """Measured here and now; the memory is that of the whole process."""
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
    taken = []
    for _ in range(1 + ROUNDS):
        times = [time.process_time()]
        answers, _ = local.answer(request)
        times.append(time.process_time())
        fusion_of(parts.plan.rule, local.cards).of(answers)
        times.append(time.process_time())
        request = loop.send(answers)
        times.append(time.process_time())
        if not isinstance(request, Ask):
            raise RuntimeError("the questions ended before the measurement")
        asked, fused, sent = np.diff(times)
        taken.append((asked, fused, max(0.0, sent - fused)))  # the loop fuses once more
    answered, fused, rest = (1e3 * statistics.median(each) for each in zip(*taken[1:], strict=True))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return Cost(institutions, opened, answered, fused, rest, peak)


def _experiment(institutions: int, folder: Path) -> Experiment:
    """Institutions of a few random images each, with the teachers of ``digits``."""
    path, images = folder / "images.npz", institutions * EACH
    rng = np.random.default_rng(0)
    np.savez(
        path,
        train_images=rng.integers(0, 256, (images, 8, 8), dtype=np.uint8),
        train_labels=np.arange(images) % 10,
        test_images=rng.integers(0, 256, (10, 8, 8), dtype=np.uint8),
        test_labels=np.arange(10),
    )
    questions = 10 * (1 + ROUNDS)  # more than are put, spread as in a run
    return parse(
        {
            "name": "scale",
            "institutions": {
                **{"data": f"npz:{path}", "count": institutions},
                **{"partition": "iid", "epochs": 1},
            },
            "method": {"imitation": "kl"},
            "questions": {"budget": questions * BATCH, "batch": BATCH, "asking": 1.0},
            "student": {"steps": questions * STEPS},
        }
    )


def costs(counts: tuple[int, ...]) -> list[Cost]:
    """Of each count, in a fresh process."""
    found = []
    for count in counts:
        with tempfile.TemporaryDirectory(prefix="fedkd-scale-") as folder:
            words = [
                sys.executable,
                "-m",
                "fedkd.simulations.benchmarks.many_institutions",
                "--one",
                folder,
            ]
            said = subprocess.run(
                [*words, str(count)], stdout=subprocess.PIPE, text=True, check=True
            )
            found.append(Cost(**json.loads(said.stdout.splitlines()[-1])))
    return found


def together(seconds: float) -> dict[str, dict[str, measure.Figure]]:
    """Teachers of one architecture, one by one and stacked: figures of a teacher and batch."""
    torch.set_num_threads(1)
    found = {}
    for model, shape in STACKED:
        networks, images = teachers(model, shape, TOGETHER), torch.rand(BATCH, *shape)
        ways = {"one by one": one_by_one(networks)}
        ways |= {f"vmap, {n} at once": vmapped(networks, n) for n in (10, TOGETHER)}
        if model == "cnn":
            ways["norms folded, alone"] = grouped(networks, 1)
            ways |= {f"norms folded, grouped {n}": grouped(networks, n) for n in (2, 10)}
        measured = [
            measure.Way(name, partial(ask, images), unit=TOGETHER, calls=1)
            for name, ask in ways.items()
        ]
        found[f"{model} {'x'.join(map(str, shape))}"] = measure.side_by_side(measured, seconds, 1)
    return found


def _show(found: list[Cost], figures: dict[str, dict[str, measure.Figure]]) -> None:
    head = ("institutions", "opened s", "round ms", "answers", "fusion", "rest")
    measure.show(
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
            for before, each in zip([None, *found], found, strict=False)
        ],
    )
    for name, ways in figures.items():
        measure.show(
            f"{name}, {TOGETHER} teachers, a teacher's share of a batch of {BATCH}",
            measure.HEAD,
            measure.rows_of(ways, "one by one"),
        )


def main(arguments: list[str] | None = None) -> int:
    """Entry point; the exit status."""
    parser = argparse.ArgumentParser(
        "fedkd.simulations.benchmarks.many_institutions", description=__doc__
    )
    parser.add_argument("--json", type=Path, help="leave the figures here too")
    parser.add_argument("--quick", action="store_true", help="no thousand, and a second each")
    parser.add_argument("--one", nargs=2, metavar=("FOLDER", "COUNT"), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.one is not None:
        print(json.dumps(asdict(cost(int(given.one[1]), Path(given.one[0])))))
        return 0
    found = costs(QUICK_COUNTS if given.quick else COUNTS)
    figures = together(1.0 if given.quick else 10.0)
    _show(found, figures)
    stacked = {m: {w: asdict(f) for w, f in ways.items()} for m, ways in figures.items()}
    measure.write({"scale": [asdict(each) for each in found], "stacked": stacked}, given.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
