"""Audit membership inference: LiRA and RMIA against teachers' answers and against the student.

Every federation is attacked once, with the teachers or students of all others as shadow models. The
attacker knows labels, architecture, training and initial weights.
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
    bootstrap_over_models,
    lira,
    margin,
    pooled,
    rmia,
    roc,
    true_positives,
)
from fedkd.simulations.audit.shadow_federations import (
    CandidateData,
    ShadowFederation,
    draw_candidates,
    train_federations,
)

LOW_FPRS = (0.001, 0.01)
"""False positive rates at which the true positive rate is reported."""
ATTACKS = ("LiRA", "RMIA")
Curve: TypeAlias = tuple[Floats, Floats]
"""FPR, TPR."""


@dataclass(frozen=True, eq=False)
class AttackResult:
    """Result of one attack on one kind of release."""

    release: str
    """``answers`` or ``student``."""
    epsilon: float | None
    """Privacy guarantee of the teachers; None without one."""
    attack: str
    """One of `ATTACKS`."""
    auc: Estimate
    """Area under the ROC curve."""
    tpr_at_fpr: dict[float, Estimate]
    """TPR by each FPR of `LOW_FPRS`."""
    curve: Curve


@dataclass(frozen=True, eq=False)
class ReleasedMargins:
    """Margins of the released models or answers on candidates and population."""

    name: str
    margins: Floats
    """(M, N + Z) `margin` of each model on candidates, then on the population."""
    members: Flags
    """(M, N) whether model m was trained, directly or not, on candidate n."""
    federation: NDArray[np.int64]
    """(M,) index of the federation of each model."""
    accuracy: float
    """Mean accuracy on the population, with the true labels."""
    epsilon: float | None
    """Privacy guarantee of the teachers; None without one."""

    def scores(self, attack: str) -> list[Scored]:
        """Attack scores of members and of non-members, for each model."""
        return [self._scores_of(attack, model) for model in range(len(self.margins))]

    def _scores_of(self, attack: str, model: int) -> Scored:
        count = self.members.shape[1]
        # Models of one federation divide the images, so one would reveal the others' members.
        shadows = self.federation != self.federation[model]
        members = self.members[shadows]
        if attack == "LiRA":
            score = lira(self.margins[model, :count], self.margins[shadows, :count], members)
        else:
            probability = special.expit(self.margins)
            population = Population(probability[model, count:], probability[shadows, count:])
            score = rmia(
                probability[model, :count], probability[shadows, :count], members, population
            )
        own = self.members[model]
        return score[own], score[~own]


@dataclass(frozen=True, eq=False)
class MembershipResults:
    """What an audit with shadow federations has found."""

    attacks: list[AttackResult]
    margins: list[ReleasedMargins]
    """Of each release, without differential privacy and with it."""
    labels: NDArray[np.int64]
    """(N + Z,) of candidates and population."""

    @property
    def accuracies(self) -> dict[str, float]:
        """Accuracy of teachers and students by release."""
        return {f"{own.name}, {epsilon_label(own.epsilon)}": own.accuracy for own in self.margins}

    @property
    def columns(self) -> dict[str, NDArray[np.generic]]:
        """Margins of every model on every sample, for `fedkd.privacy.score_export`.

        A member is 1, a candidate that is none 0, and a sample of the population -1.
        """
        parts: list[dict[str, NDArray[np.generic]]] = []
        samples = len(self.labels)
        for own in self.margins:
            models = len(own.margins)
            member = np.full((models, samples), -1)
            member[:, : own.members.shape[1]] = own.members
            parts.append(
                {
                    "release": np.repeat(own.name, models * samples),
                    "epsilon": np.repeat(
                        np.inf if own.epsilon is None else own.epsilon, models * samples
                    ),
                    "federation": own.federation.repeat(samples),
                    "model": np.arange(models).repeat(samples),
                    "sample": np.tile(np.arange(samples), models),
                    "label": np.tile(self.labels, models),
                    "member": member.ravel(),
                    "margin": own.margins.ravel(),
                }
            )
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def audit_membership(
    experiment: Experiment,
    count: int,
    images: int,
    label_noise: float,
    on_federation: Callable[[str], None] = lambda stage: None,
) -> MembershipResults:
    """Attack an experiment, without differential privacy and with as much as it asks for.

    Args:
        experiment: resolved.
        count: federations of each kind, >= 3.
        images: candidates.
        label_noise: probability that a label is wrong, also in training; in [0, 1].
        on_federation: called with the kind of each finished federation.

    Raises:
        SettingsError: a number out of range.
        FedkdError: whatever a run raises.
    """
    if count < 3:
        raise SettingsError(
            f"{count} federations; expected 3 or more, of which all but one are shadows"
        )
    rng = np.random.default_rng(experiment.seed)
    data = draw_candidates(experiment, images, label_noise, rng)
    results, margins = [], []
    for epsilon in audited_epsilons(experiment):
        privacy = experiment.privacy.model_copy(update={"epsilon": epsilon})
        private = experiment.model_copy(update={"privacy": privacy})
        federations = train_federations(
            private, data, count, rng, partial(on_federation, epsilon_label(epsilon))
        )
        for release in releases(federations, data, epsilon):
            margins.append(release)
            results += [_attack(release, attack, rng) for attack in ATTACKS]
    labels = torch.cat([data.labels, data.population_labels]).numpy()
    return MembershipResults(results, margins, labels)


def audited_epsilons(experiment: Experiment) -> tuple[float | None, ...]:
    """Epsilons with which an experiment is audited; None is without differential privacy."""
    return (None,) if experiment.privacy.epsilon is None else (None, experiment.privacy.epsilon)


def epsilon_label(epsilon: float | None) -> str:
    """Label of an epsilon in tables."""
    return "no DP" if epsilon is None else f"ε = {epsilon:g}"


def releases(
    federations: list[ShadowFederation], data: CandidateData, epsilon: float | None
) -> tuple[ReleasedMargins, ReleasedMargins]:
    """Margins (M, N + Z) of all teachers' answers, and of all students."""
    labels = torch.cat([data.labels, data.population_labels]).numpy()
    teachers = len(federations[0].members)
    outputs = [answer for federation in federations for answer in federation.answers]
    indices = np.arange(len(federations))
    answers = ReleasedMargins(
        "answers",
        np.stack([margin(each.double().numpy(), labels) for each in outputs]),
        np.concatenate([federation.members for federation in federations]),
        indices.repeat(teachers),
        _mean_accuracy([each[len(data.labels) :] for each in outputs], data),
        epsilon,
    )
    student = ReleasedMargins(
        "student",
        np.stack(
            [margin(federation.student.double().numpy(), labels) for federation in federations]
        ),
        np.stack([federation.members.any(0) for federation in federations]),
        indices,
        _mean_accuracy(
            [federation.student[len(data.labels) :] for federation in federations], data
        ),
        epsilon,
    )
    return answers, student


def _mean_accuracy(outputs: list[torch.Tensor], data: CandidateData) -> float:
    return float(np.mean([accuracy(each, data.truth) for each in outputs]))


def _attack(release: ReleasedMargins, attack: str, rng: np.random.Generator) -> AttackResult:
    models = release.scores(attack)
    return AttackResult(
        release.name,
        release.epsilon,
        attack,
        bootstrap_over_models(area, models, rng),
        {fpr: bootstrap_over_models(partial(true_positives, fpr), models, rng) for fpr in LOW_FPRS},
        roc(*pooled(models)),
    )
