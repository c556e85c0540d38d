"""Who was trained on? LiRA and RMIA against teachers' answers and against the student.

Every world is attacked once, with the teachers or students of all other worlds as shadows; their
images were dealt anew, so they say what is usual with an image and without it. The attacker knows
the labels, the architecture, how everybody is trained and with which initial weights.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special

from fedkd.errors import SettingsError
from fedkd.evaluation import accuracy
from fedkd.experiment import Experiment
from fedkd.privacy.membership_inference import (
    Estimate,
    Flags,
    Floats,
    Population,
    Scored,
    area,
    lira,
    margin,
    over_models,
    pooled,
    rmia,
    roc,
    true_positives,
)
from fedkd.simulations.audit.shadow_federations import Pool, World, pool, worlds

LOW = (0.001, 0.01)
"""False positive rates at which true ones are told."""
ATTACKS = ("LiRA", "RMIA")
Curve: TypeAlias = tuple[Floats, Floats]
"""FPR, TPR."""


@dataclass(frozen=True, eq=False)
class Attacked:
    """How one attack on one kind of release went."""

    release: str
    """answers or student."""
    epsilon: float | None
    """What the teachers promise; None: nothing."""
    attack: str
    """One of `ATTACKS`."""
    area: Estimate
    """AUC."""
    low: dict[float, Estimate]
    """TPR by each FPR of `LOW`."""
    curve: Curve


@dataclass(frozen=True, eq=False)
class Release:
    """What was released of some data, model by model."""

    name: str
    margins: Floats
    """(M, N + Z) `margin` of each model on candidates, then on the population."""
    inside: Flags
    """(M, N) whether model m learned, directly or not, from candidate n."""
    world: NDArray[np.int64]
    """(M,) which world it is of."""
    right: float
    """Mean accuracy on the population, with the true labels."""

    def scores(self, attack: str) -> list[Scored]:
        """Scores of members and others, for each model in turn."""
        return [self._attacked(attack, model) for model in range(len(self.margins))]

    def _attacked(self, attack: str, model: int) -> Scored:
        count = self.inside.shape[1]
        # Models of one world share out the images, and would tell of each other.
        shadows = self.world != self.world[model]
        inside = self.inside[shadows]
        if attack == "LiRA":
            score = lira(self.margins[model, :count], self.margins[shadows, :count], inside)
        else:
            chance = special.expit(self.margins)
            others = Population(chance[model, count:], chance[shadows, count:])
            score = rmia(chance[model, :count], chance[shadows, :count], inside, others)
        own = self.inside[model]
        return score[own], score[~own]


def audit(
    experiment: Experiment,
    count: int,
    images: int,
    label_noise: float,
    done: Callable[[str], None] = lambda stage: None,
) -> tuple[list[Attacked], dict[str, float]]:
    """Attack an experiment, without differential privacy and with as much as it asks for.

    Args:
        experiment: resolved.
        count: worlds of each kind, >= 3.
        images: candidates.
        label_noise: chance that a label is wrong, in the training too; in [0, 1].
        done: is told of each world.

    Returns:
        What every attack came to, and the accuracy of teachers and students by release.

    Raises:
        SettingsError: a number out of range.
        FedkdError: whatever a run raises.
    """
    if count < 3:
        raise SettingsError(f"{count} worlds; expected 3 or more, of which all but one are shadows")
    rng = np.random.default_rng(experiment.seed)
    of = pool(experiment, images, label_noise, rng)
    attacked, right = [], {}
    for epsilon in kinds(experiment):
        privacy = experiment.privacy.model_copy(update={"epsilon": epsilon})
        private = experiment.model_copy(update={"privacy": privacy})
        made = worlds(private, of, count, rng, partial(done, label(epsilon)))
        for release in releases(made, of):
            right[f"{release.name}, {label(epsilon)}"] = release.right
            attacked += [_judged(release, epsilon, attack, rng) for attack in ATTACKS]
    return attacked, right


def kinds(experiment: Experiment) -> tuple[float | None, ...]:
    """Epsilons with which an experiment is audited; None stands for none."""
    return (None,) if experiment.privacy.epsilon is None else (None, experiment.privacy.epsilon)


def label(epsilon: float | None) -> str:
    """What an epsilon is called in a table."""
    return "no DP" if epsilon is None else f"ε = {epsilon:g}"


def releases(made: list[World], of: Pool) -> tuple[Release, Release]:
    """Answers of every teacher, and students; (M, N + Z) margins each."""
    labels = torch.cat([of.labels, of.population_labels]).numpy()
    teachers = len(made[0].inside)
    said = [answer for world in made for answer in world.answers]
    numbers = np.arange(len(made))
    answers = Release(
        "answers",
        np.stack([margin(each.double().numpy(), labels) for each in said]),
        np.concatenate([world.inside for world in made]),
        numbers.repeat(teachers),
        _right([each[len(of.labels) :] for each in said], of),
    )
    student = Release(
        "student",
        np.stack([margin(world.student.double().numpy(), labels) for world in made]),
        np.stack([world.inside.any(0) for world in made]),
        numbers,
        _right([world.student[len(of.labels) :] for world in made], of),
    )
    return answers, student


def _right(said: list[torch.Tensor], of: Pool) -> float:
    return float(np.mean([accuracy(each, of.truth) for each in said]))


def _judged(
    release: Release, epsilon: float | None, attack: str, rng: np.random.Generator
) -> Attacked:
    models = release.scores(attack)
    return Attacked(
        release.name,
        epsilon,
        attack,
        over_models(area, models, rng),
        {fpr: over_models(partial(true_positives, fpr), models, rng) for fpr in LOW},
        roc(*pooled(models)),
    )
