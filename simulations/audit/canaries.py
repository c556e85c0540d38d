"""What one training gives away of canaries: images with wrong labels, each in it by a fair coin.

Knows one teacher and its data, and no network. The teacher is trained for the audit and answers
nobody: its canaries have harmed it, and what is printed here would have to be charged.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedkd.client.vault.training.dp_sgd import train_with_dp_sgd
from fedkd.client.vault.training.supervised import DpSgdSettings, SupervisedSettings, train_teacher
from fedkd.data.datasets import Dataset
from fedkd.errors import SettingsError
from fedkd.evaluation import accuracy, logits
from fedkd.models import ModuleTeacher
from fedkd.privacy.empirical_epsilon import guessed_right, one_run_epsilon
from fedkd.privacy.membership_inference import margin

Watch = Callable[[int, int], None]


@dataclass(frozen=True)
class Canaries:
    """What one training came to."""

    claim: float | None
    """Epsilon that the training promises; None where it promises nothing."""
    bound: float
    """Epsilon that the guesses refute."""
    delta: float
    error: float
    """Chance that the bound is above the truth."""
    canaries: int
    guesses: int
    right: int
    accuracy: float
    """Of the teacher, on test images."""

    @property
    def violated(self) -> bool:
        """Whether the promise is proven wrong, but for the chance of an error."""
        return self.claim is not None and self.bound > self.claim


@dataclass(frozen=True)
class Canary:
    """How a training is attacked."""

    model: str
    images: int
    """Canaries, >= 1."""
    guesses: int
    """Fixed beforehand: a number chosen by what is seen would void the bound."""
    error: float = 0.05
    delta: float = 1e-5
    """Where the training promises nothing; else its own."""

    def __post_init__(self) -> None:
        if not 0 < self.guesses <= self.images:
            raise SettingsError(
                f"{self.guesses} guesses on {self.images} canaries; expected 1 to {self.images}"
            )


def audit(
    how: Canary,
    data: Dataset,
    settings: SupervisedSettings | DpSgdSettings,
    rng: np.random.Generator,
    watch: Watch | None = None,
) -> Canaries:
    """Train one teacher with and among canaries, and guess which of them it has seen.

    Args:
        how: the attack.
        data: the first training images get wrong labels and are the canaries; all others are
            the teacher's in any case.
        settings: of the training, which is private or not.
        rng: tosses the coins and draws wrong labels.
        watch: is told of epochs.

    Raises:
        SettingsError: no such model, or more canaries than images.
        DataError: too little to learn from.
    """
    count = len(data.train_labels)
    if how.images >= count:
        raise SettingsError(f"{how.images} canaries of {count} images; expected fewer")
    canaries = torch.from_numpy(rng.permutation(count))
    canaries, rest = canaries[: how.images], canaries[how.images :]
    labels = data.train_labels.clone()
    shift = torch.from_numpy(rng.integers(1, data.classes, how.images))
    labels[canaries] = (labels[canaries] + shift) % data.classes
    inside = rng.random(how.images) < 0.5
    taken = torch.cat([rest, canaries[torch.from_numpy(inside)]])
    taken = taken[torch.from_numpy(rng.permutation(len(taken)))]
    teacher, claim, delta = _taught(how, data, taken, labels, settings, watch)
    said = logits(teacher.module, data.train_images[canaries])
    scores = margin(said.double().numpy(), labels[canaries].numpy())
    right = guessed_right(scores, inside, how.guesses)
    return Canaries(
        claim,
        one_run_epsilon(how.images, how.guesses, right, delta, how.error),
        delta,
        how.error,
        how.images,
        how.guesses,
        right,
        accuracy(logits(teacher.module, data.test_images), data.test_labels),
    )


def _taught(
    how: Canary,
    data: Dataset,
    taken: Tensor,
    labels: Tensor,
    settings: SupervisedSettings | DpSgdSettings,
    watch: Watch | None,
) -> tuple[ModuleTeacher, float | None, float]:
    """The teacher, and the epsilon and delta that it promises."""
    told = (how.model, data.train_images[taken], labels[taken], data.classes)
    if isinstance(settings, DpSgdSettings):
        teacher, promised = train_with_dp_sgd(*told, settings, 0, watch)
        return teacher, promised.epsilon, promised.delta
    taught = train_teacher(*told, settings, 0, watch)
    if not isinstance(taught, ModuleTeacher):
        raise SettingsError(f"{how.model} is no network; choose one for an audit by canaries")
    return taught, None, how.delta
