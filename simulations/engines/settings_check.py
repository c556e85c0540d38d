"""Check of an experiment before its folder is made and before any teacher is trained.

All that a run builds is built once, with untrained teachers in the place of trained ones: what is
wrong is told within seconds, and not after minutes of training.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cached_property

from torch import Tensor

from fedkd.client.institution import Institution, institution_name, simulated_assets
from fedkd.client.institution.from_experiment import simulated_policy
from fedkd.client.ledger.dataset_privacy_spending import DpTraining
from fedkd.client.vault.pate_ensemble import PateEnsemble
from fedkd.client.vault.trained_vault import TrainedTeacher, TrainedVault
from fedkd.client.vault.training.supervised import SKLEARN_PREFIX
from fedkd.client.vault.training.supervised_tables import build_teacher_network
from fedkd.errors import NeedsError, SettingsError
from fedkd.experiment import Experiment
from fedkd.models import ModuleTeacher, Teacher
from fedkd.protocol import Card, Guarantee, Signal
from fedkd.server.experiment_check import check_experiment, check_start
from fedkd.simulations.engines.examination import check_examiner


class _Unfitted:
    """An estimator of scikit-learn's that is not fitted yet, as a teacher that is never asked."""

    differentiable = False
    signals = frozenset({Signal.LOGITS})

    def __init__(self, classes: int) -> None:
        self.classes = classes

    def ask(self, images: Tensor, signals: frozenset[Signal]) -> dict[Signal, Tensor]:
        """Always raises."""
        raise NeedsError("this teacher is not trained yet")

    def pull_back(self, images: Tensor, cotangents: Mapping[Signal, Tensor]) -> Tensor:
        """Always raises."""
        raise NeedsError("this teacher is not trained yet")


class UntrainedVault(TrainedVault):
    """The vault of a simulated institution, whose teacher has fresh weights."""

    @cached_property
    def dp_training(self) -> DpTraining | None:
        """See `Vault.dp_training`: the planned one."""
        target = self.assets.dp_training
        return None if target is None else DpTraining("planned", target.epsilon, target.delta)

    @cached_property
    def _trained(self) -> TrainedTeacher:
        self.check_model()
        own, target = self.assets, self.assets.dp_training
        if own.voters:
            return PateEnsemble([None], self.classes), None
        teacher: Teacher = _Unfitted(self.classes)
        if not own.model.startswith(SKLEARN_PREFIX):
            network = build_teacher_network(
                own.model, self.classes, self.shape, self.columns, seed=0
            )
            teacher = ModuleTeacher(network, self.classes)
        if target is None:
            return teacher, None
        guarantee = Guarantee(
            target.epsilon, target.delta, 1, 1.0, target.sampling_rate, target.clipping
        )
        return teacher, guarantee


def check_settings(experiment: Experiment) -> None:
    """Build what a simulated run builds, with untrained teachers.

    Raises:
        SettingsError: the experiment names something that does not exist, or parts of it do not go
            together.
        NeedsError: the method asks for what the policy refuses.
        DataError: the data cannot be read, or an institution has too little of them.
    """
    check_experiment(experiment)
    i = experiment.institutions
    if experiment.questions.quorum > len(i.taking_part):
        raise SettingsError(
            f"questions.quorum {experiment.questions.quorum} of {len(i.taking_part)} institutions; "
            "lower it, or raise institutions.count"
        )
    for index in i.taking_part:
        TrainedVault(simulated_assets(experiment, index)).check_samples()
    kinds = min(i.count, math.lcm(len(i.models), max(1, len(i.labels))))
    policy = simulated_policy(experiment)
    cards = [
        Institution(
            institution_name(index, i.count),
            UntrainedVault(simulated_assets(experiment, index)),
            policy,
        ).card
        for index in i.present or range(kinds)
    ]
    check_federation(experiment, cards)


def check_federation(experiment: Experiment, cards: Sequence[Card]) -> None:
    """Build what the coordinator and the examiner bring, for institutions with these cards.

    Raises:
        SettingsError: see `check_settings`.
        NeedsError: likewise.
        DataError: public samples cannot be read.
    """
    if experiment.examiner is not None and experiment.grow.run is not None:
        raise SettingsError("an examiner scores no student that goes on from an earlier run")
    check_start(experiment, list(cards))
    if experiment.examiner is not None:
        check_examiner(experiment.examiner, cards)
