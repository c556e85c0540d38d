"""Hostile institutions that predict numbers: how much R^2 does a student lose to those who lie?

    python -m fedkd.simulations.checks.lying_numbers [EXPERIMENT ...] [--seeds 0,1,2] [--liars N]
        [--rules NAME,NAME] [--set KEY=VALUE ...]

A student is trained with every attack, by every rule, and compared with one of the same seed for
whom the liars take no part. Scores are R^2 to the truth on test rows. For classes see
`fedkd.simulations.checks.byzantine`.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from fedkd.client.institution import institution_name, simulated_institution
from fedkd.experiment import Experiment, load_experiment
from fedkd.server.coordinator import Coordinator, ingredients
from fedkd.simulations.checks.byzantine import Attack, LyingInstitution, liars_of
from fedkd.simulations.engines.evaluation import student_score
from fedkd.simulations.engines.local import LocalInstitutions

OFFSET = 0.3
"""Added to every number, as a share of its range."""
FIVE = ("institutions.count=5",)
"""Of every case."""


def inverted(values: Tensor, liar: LyingInstitution) -> Tensor:
    """High is low."""
    return 1.0 - values


def constant(values: Tensor, liar: LyingInstitution) -> Tensor:
    """The greatest number, whatever the row."""
    return torch.ones_like(values)


def random_numbers(values: Tensor, liar: LyingInstitution) -> Tensor:
    """Uniform in the range."""
    return torch.rand(values.shape, generator=liar.rng)


def shifted(values: Tensor, liar: LyingInstitution) -> Tensor:
    """Always too high, by `OFFSET`."""
    return (values + OFFSET).clamp(0.0, 1.0)


ATTACKS: Mapping[str, Attack] = {
    "inverted": inverted,
    "constant": constant,
    "random": random_numbers,
    "shifted": shifted,
}
CASES = ("honest", "without", *ATTACKS)
"""Nobody lies; the liars take no part; and each attack."""


def student_r2(experiment: Experiment, vaults: Path, liars: Sequence[int], case: str) -> float:
    """R^2 to the truth of a student of these institutions; nan where it is not defined.

    Args:
        experiment: that predicts numbers.
        vaults: folder where the institutions keep their teachers.
        liars: their indices.
        case: one of `CASES`.
    """
    count, budget = experiment.institutions.count, experiment.questions.budget
    lying = {}
    if case in ATTACKS:
        for index in liars:
            honest = simulated_institution(experiment, index, vaults / f"{index:04d}")
            lying[index] = LyingInstitution(honest, ATTACKS[case], budget)
    absent = [institution_name(index, count) for index in liars] if case == "without" else []
    local = LocalInstitutions(experiment, vaults, lambda count: None, lying, without=absent)
    parts = ingredients(experiment, local.cards)
    student = Coordinator(parts, list(local.cards), local.answer, lambda event: None).finish()
    score = student_score(experiment, student.student)["r2"]
    return float("nan") if score is None else score


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(
        "fedkd.simulations.checks.lying_numbers", description=__doc__.split("\n")[0]
    )
    parser.add_argument("experiments", nargs="*", default=["diabetes"], help="[diabetes]")
    parser.add_argument("--seeds", default="0,1,2", help="of partition, teachers and runs [0,1,2]")
    parser.add_argument("--liars", type=int, default=1, help="how many lie [1]")
    parser.add_argument("--rules", default="auto,mean", help="fusion rules [auto,mean]")
    parser.add_argument("--set", action="append", default=[], help="section.key=value")
    options = parser.parse_args(arguments)
    seeds, rules = [int(seed) for seed in options.seeds.split(",")], options.rules.split(",")
    for name in options.experiments:
        print(f"{name}: R2 of students, mean and deviation over {len(seeds)} seeds")
        print("  ".join(["case    ", *(f"{rule:>14}" for rule in rules)]))
        found: dict[str, dict[str, list[float]]] = {c: {r: [] for r in rules} for c in CASES}
        for seed in seeds:
            _measure(name, seed, options, found)
        for case, by_rule in found.items():
            cells = (f"{_mean_and_deviation(values):>14}" for values in by_rule.values())
            print("  ".join([f"{case:8}", *cells]), flush=True)
    return 0


def _measure(
    name: str, seed: int, options: argparse.Namespace, found: dict[str, dict[str, list[float]]]
) -> None:
    """Add the score of one seed for every case and rule."""
    set_to = [f"seed={seed}", f"institutions.partition_seed={seed}", *FIVE, *options.set]
    experiment = load_experiment(name, set_to)
    torch.set_num_threads(experiment.student.threads)
    liars = liars_of(seed, experiment.institutions.count, options.liars)
    with tempfile.TemporaryDirectory(prefix="fedkd-lying-numbers-") as folder:
        for case, by_rule in found.items():
            for rule, values in by_rule.items():
                questions = experiment.questions.model_copy(update={"rule": rule})
                ruled = experiment.model_copy(update={"questions": questions})
                values.append(student_r2(ruled, Path(folder), liars, case))


def _mean_and_deviation(values: Sequence[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.3f} ± {deviation:.3f}"


if __name__ == "__main__":
    sys.exit(main())
