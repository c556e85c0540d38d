"""Do priors that teach most show without test data? Agreement on samples of several priors.

    python -m fedkd.simulations.checks.prior_agreement RUN RUN [...]
        --priors collage,photo,photo-collage [--samples 1000]

A run's own held-back samples are of its own priors, and easier priors agree more: they compare no
two runs of different priors. Here institutions are asked once about fresh samples, as many of each
prior, and the student of each run is held against the fused answers. The runs are finished
simulations with the same teachers, which are kept beside them. What this told on CIFAR-10 is in
docs/results/natural-images.md: the order of students by it was not their order on test data.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from fedkd.aggregation.fusion_of_cards import build_fusion
from fedkd.client.institution.student_weight_loading import open_student
from fedkd.errors import FedkdError, SettingsError
from fedkd.evaluation import predict_logits
from fedkd.experiment import Experiment, parse_experiment
from fedkd.methods import make
from fedkd.procedural import build_prior
from fedkd.protocol import Ask, Signal
from fedkd.server.report.records.run_folder import load_run
from fedkd.simulations.engines.local import LocalInstitutions
from fedkd.simulations.run import teacher_cache

STUDENT = "student.safetensors"
SEED = 2**32 - 1
"""Of the fresh samples."""


def agreements(runs: Sequence[Path], priors: Sequence[str], count: int) -> list[list[float]]:
    """Of the student of each run, its agreement on samples of each prior, in [0, 1].

    Args:
        runs: folders of finished simulations.
        priors: by name.
        count: samples of each, >= 1.

    Raises:
        SettingsError: a run that is none or has other teachers, a prior that there is not, or an
            institution that refuses.
        DataError: a student that cannot be opened.
    """
    experiments = [parse_experiment(load_run(run).result.config) for run in runs]
    vaults = {teacher_cache(e, run) for e, run in zip(experiments, runs, strict=True)}
    if len(vaults) > 1:
        raise SettingsError(
            f"{len(vaults)} sets of teachers in {len(runs)} runs; give runs side by side in one "
            "folder, with the same [institutions] and [privacy]"
        )
    torch.set_num_threads(experiments[0].student.threads)
    students = [open_student(run / STUDENT).network for run in runs]
    institutions = LocalInstitutions(experiments[0], vaults.pop(), lambda ready: None)
    shape, rng = institutions.cards[0].shape, torch.Generator().manual_seed(SEED)
    samples = torch.cat([build_prior(name).draw(count, shape, rng) for name in priors])
    target = fused_answers(experiments[0], institutions, samples).argmax(1)
    return [
        (predict_logits(student, samples).argmax(1) == target)
        .double()
        .view(len(priors), count)
        .mean(1)
        .tolist()
        for student in students
    ]


def fused_answers(
    experiment: Experiment, institutions: LocalInstitutions, samples: Tensor
) -> Tensor:
    """What the institutions of an experiment answer together, (N, K).

    Args:
        experiment: whose fusion rule it is.
        institutions: those that are asked.
        samples: (N, C, H, W) uint8.

    Raises:
        SettingsError: somebody refuses.
    """
    questions = experiment.questions
    rule = make(experiment.method.name, experiment.method.arguments).rule_for(questions.rule)
    fusion = build_fusion(rule, institutions.cards, questions.prior)
    fused = []
    for part in torch.split(samples, questions.batch):
        answers, refusals = institutions.answer(Ask(part))
        if refusals:
            raise SettingsError(f"refused: {refusals}; let policies allow more, or ask about fewer")
        fused.append(fusion.of(answers)[Signal.LOGITS])
    return torch.cat(fused)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(
        "fedkd.simulations.checks.prior_agreement", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("runs", nargs="+", type=Path, help="folders of finished simulations")
    parser.add_argument("--priors", required=True, help="a,b,c: priors of the samples")
    parser.add_argument("--samples", type=int, default=1000, help="of each prior [1000]")
    options = parser.parse_args(arguments)
    priors = options.priors.split(",")
    try:
        found = agreements(options.runs, priors, options.samples)
    except FedkdError as error:
        print(f"prior_agreement: {error}", file=sys.stderr)
        return 1
    print(f"agreement with the fused answer on {options.samples} samples of each prior, in percent")
    print(f"{'run':24}" + "".join(f"{name:>16}" for name in [*priors, "mean"]))
    for run, row in zip(options.runs, found, strict=True):
        cells = [*row, statistics.fmean(row)]
        print(f"{run.name:24}" + "".join(f"{100 * cell:16.2f}" for cell in cells))
    return 0


if __name__ == "__main__":
    sys.exit(main())
