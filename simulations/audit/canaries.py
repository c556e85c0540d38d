"""Audit one training by canaries: samples with wrong labels, each a member by a fair coin.

The teacher is trained for the audit and never answers: its canaries have harmed it, and the printed
results would have to be charged.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedkd.client.vault.training.dp_sgd import train_with_dp_sgd
from fedkd.client.vault.training.settings import DpSgdSettings, SupervisedSettings
from fedkd.client.vault.training.supervised import train_teacher
from fedkd.client.vault.training.supervised_tables import train_table_teacher
from fedkd.data.dataset import Dataset
from fedkd.errors import SettingsError
from fedkd.evaluation import accuracy, predict_logits
from fedkd.models import ModuleTeacher, Teacher
from fedkd.privacy.empirical_epsilon import correct_guesses, one_run_epsilon
from fedkd.privacy.membership_inference import margin

EpochCallback = Callable[[int, int], None]


@dataclass(frozen=True)
class CanaryResult:
    """Result of the audit of one training."""

    claim: float | None
    """Epsilon that the training claims; None without differential privacy."""
    bound: float
    """Lower bound on epsilon from the right guesses."""
    delta: float
    error: float
    """Probability that the bound is above the truth."""
    canaries: int
    guesses: int
    right: int
    accuracy: float
    """Accuracy of the teacher on test images."""

    @property
    def violated(self) -> bool:
        """Whether the claim is refuted, up to ``error``."""
        return self.claim is not None and self.bound > self.claim


@dataclass(frozen=True)
class CanaryAttack:
    """Settings of the attack on a training."""

    model: str
    images: int
    """Number of canaries, >= 1."""
    guesses: int
    """Number of guesses, fixed beforehand: choosing it by the results would void the bound."""
    error: float = 0.05
    delta: float = 1e-5
    """For a training without differential privacy; otherwise its own delta counts."""

    def __post_init__(self) -> None:
        if not 0 < self.guesses <= self.images:
            raise SettingsError(
                f"{self.guesses} guesses on {self.images} canaries; expected 1 to {self.images}"
            )


def audit_canaries(
    attack: CanaryAttack,
    data: Dataset,
    settings: SupervisedSettings | DpSgdSettings,
    rng: np.random.Generator,
    on_epoch: EpochCallback | None = None,
) -> CanaryResult:
    """Train one teacher with canaries, and guess which of them are members.

    Args:
        attack: settings of the attack.
        data: randomly chosen training images get wrong labels and are the canaries; all others are
            in the training set in any case.
        settings: of the training, which is private or not.
        rng: draws membership and wrong labels.
        on_epoch: called after each epoch.

    Raises:
        SettingsError: no such model, more canaries than samples, or numbers in place of classes.
        DataError: too few training images.
    """
    count = len(data.train_labels)
    if data.numbers:
        raise SettingsError(
            f"{data.name} has numbers to predict; a canary has a wrong class, so take other data"
        )
    if attack.images >= count:
        raise SettingsError(f"{attack.images} canaries of {count} images; expected fewer")
    canaries = torch.from_numpy(rng.permutation(count))
    canaries, others = canaries[: attack.images], canaries[attack.images :]
    labels = data.train_labels.clone()
    shift = torch.from_numpy(rng.integers(1, data.classes, attack.images))
    labels[canaries] = (labels[canaries] + shift) % data.classes
    is_member = rng.random(attack.images) < 0.5
    training_set = torch.cat([others, canaries[torch.from_numpy(is_member)]])
    training_set = training_set[torch.from_numpy(rng.permutation(len(training_set)))]
    teacher, claim, delta = _train(attack, data, training_set, labels, settings, on_epoch)
    logits = predict_logits(teacher.module, data.train_images[canaries])
    scores = margin(logits.double().numpy(), labels[canaries].numpy())
    right = correct_guesses(scores, is_member, attack.guesses)
    return CanaryResult(
        claim,
        one_run_epsilon(attack.images, attack.guesses, right, delta, attack.error),
        delta,
        attack.error,
        attack.images,
        attack.guesses,
        right,
        accuracy(predict_logits(teacher.module, data.test_images), data.test_labels),
    )


def _train(
    attack: CanaryAttack,
    data: Dataset,
    training_set: Tensor,
    labels: Tensor,
    settings: SupervisedSettings | DpSgdSettings,
    on_epoch: EpochCallback | None,
) -> tuple[ModuleTeacher, float | None, float]:
    """Train the teacher; returns it with the epsilon and delta that it claims."""
    arguments = (attack.model, data.train_images[training_set], labels[training_set], data.classes)
    if isinstance(settings, DpSgdSettings):
        private, guarantee = train_with_dp_sgd(*arguments, settings, 0, on_epoch, data.columns)
        return private, guarantee.epsilon, guarantee.delta
    teacher: Teacher
    if data.columns:
        columns = (data.columns, data.numbers)
        teacher = train_table_teacher(*arguments, *columns, settings, 0, on_epoch)
    else:
        teacher = train_teacher(*arguments, settings, 0, on_epoch)
    if not isinstance(teacher, ModuleTeacher):
        raise SettingsError(f"{attack.model} is no network; choose one for an audit by canaries")
    return teacher, None, attack.delta
