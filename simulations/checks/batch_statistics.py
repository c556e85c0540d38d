"""Answers by statistics of each batch: what do students learn of them, and of running ones?

    python -m fedkd.simulations.checks.batch_statistics [EXPERIMENT] [--seeds 0,1,2]
        [--priors noise,pink,all] [--students cnn,cnn-groupnorm] [--set KEY=VALUE ...]

One institution has all of the data, so that its teacher is one for all seeds. For every prior and
student there is a run with its teacher's running statistics, and one with those of each batch. Each
student is scored twice: with its own running statistics, and with those of the test images, which
takes them all and no label. Without batch norm both are the same.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import cast

import torch

from fedkd.core import recalibrated
from fedkd.evaluation import accuracy, predict_logits
from fedkd.experiment import Experiment, load_experiment
from fedkd.server.coordinator import Coordinator, ingredients
from fedkd.simulations.engines.evaluation import evaluate, load_dataset
from fedkd.simulations.engines.local import LocalInstitutions

SETTINGS = (
    *("institutions.count=1", 'institutions.partition="iid"', "policy.batch_statistics=true"),
    *("questions.budget=6400", "student.steps=800"),
)
"""Of every run."""
ALL = "all"
"""Stands for the experiment's own priors."""


@dataclass(frozen=True)
class Scores:
    """Accuracies on all test images, in [0, 1]."""

    own: float
    """Of the student with its own running statistics."""
    recalibrated: float
    """With statistics of the test images."""
    teacher: float


@dataclass(frozen=True)
class Row:
    """One row of the table: settings that its runs share."""

    prior: str
    """The only one, or `ALL`."""
    student: str
    """Its network."""
    by_batch: bool
    """Whether the teacher answers by the statistics of each batch."""

    @property
    def settings(self) -> list[str]:
        """By which its runs differ from those of other rows."""
        priors = [] if self.prior == ALL else [f'images.priors=["{self.prior}"]']
        by_batch = f"questions.batch_statistics={str(self.by_batch).lower()}"
        return [*priors, by_batch, f'student.model="{self.student}"']

    def runs(
        self, experiment: str, seeds: Sequence[int], overrides: Sequence[str], vaults: Path
    ) -> list[Scores]:
        """A run for each seed.

        Args:
            experiment: its name.
            seeds: of the run; teachers of ours depend on the partition alone.
            overrides: further settings.
            vaults: folder in which the teacher is kept.
        """
        found = []
        for seed in seeds:
            settings = [*SETTINGS, *self.settings, *overrides, f"seed={seed}"]
            found.append(scores_of(load_experiment(experiment, settings), vaults))
        return found


def scores_of(experiment: Experiment, vaults: Path) -> Scores:
    """Train a student of one institution, whose teacher is kept in ``vaults``."""
    torch.set_num_threads(experiment.student.threads)
    local = LocalInstitutions(experiment, vaults, lambda count: None)
    parts = ingredients(experiment, local.cards)
    coordinator = Coordinator(parts, list(local.cards), local.answer, lambda event: None)
    student = coordinator.finish().student
    test = load_dataset(experiment.institutions.data, experiment.institutions.root)
    # The one institution has all classes, in the order of the data.
    own, anew = (
        accuracy(predict_logits(model, test.test_images), test.test_labels)
        for model in (student, recalibrated(student, test.test_images))
    )
    (teacher,) = evaluate(experiment, vaults, local.cards, student).teachers.values()
    return Scores(own, anew, cast(float, teacher["accuracy"]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(
        "fedkd.simulations.checks.batch_statistics", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("experiment", nargs="?", default="digits", help="[digits]")
    parser.add_argument("--seeds", default="0,1,2", help="of runs [0,1,2]")
    parser.add_argument("--priors", default=f"noise,pink,{ALL}", help=f"[noise,pink,{ALL}]")
    parser.add_argument("--students", default="cnn,cnn-groupnorm", help="[cnn,cnn-groupnorm]")
    parser.add_argument("--set", action="append", default=[], help="section.key=value")
    options = parser.parse_args(arguments)
    seeds = [int(seed) for seed in options.seeds.split(",")]
    print(f"{options.experiment}: accuracy in percent, mean and deviation over {len(seeds)} seeds")
    names = ("own statistics", "of test images", "teacher")
    print(f"{'prior':8}{'student':16}{'teacher by':12}" + "".join(f"{n:>16}" for n in names))
    rows = product(options.priors.split(","), options.students.split(","), (False, True))
    with tempfile.TemporaryDirectory(prefix="fedkd-batch-statistics-") as folder:
        for each in (Row(*one) for one in rows):
            runs = each.runs(options.experiment, seeds, options.set, Path(folder))
            by = "batch" if each.by_batch else "running"
            cells = (
                _mean_and_deviation([getattr(run, name) for run in runs])
                for name in ("own", "recalibrated", "teacher")
            )
            print(f"{each.prior:8}{each.student:16}{by:12}" + "".join(cells), flush=True)
    return 0


def _mean_and_deviation(values: Sequence[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{100 * statistics.fmean(values):8.2f} ± {100 * deviation:5.2f}"


if __name__ == "__main__":
    sys.exit(main())
