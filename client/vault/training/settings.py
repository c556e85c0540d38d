"""Settings of a teacher's training: supervised, and by DP-SGD."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from fedkd.core.augmentation import NO_AUGMENTATION, Augmentation
from fedkd.errors import SettingsError


@dataclass(frozen=True)
class SupervisedSettings:
    """How a network is trained: AdamW, the rate falling to 0 along a cosine.

    Raises:
        SettingsError: a number out of range.
    """

    epochs: int = 40
    """Passes over the institution's images, >= 1."""
    batch: int = 32
    """Images of a step, >= 2, since batch norm needs more than one."""
    learning_rate: float = 5e-3
    """> 0."""
    weight_decay: float = 5e-4
    """>= 0."""
    augmentation: Augmentation = NO_AUGMENTATION
    """Of every image, anew in each epoch."""

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 2:
            raise SettingsError(
                f"{self.epochs} epochs in batches of {self.batch}; expected 1 or more epochs and "
                f"2 or more images"
            )
        rate, decay = self.learning_rate, self.weight_decay
        if not 0 < rate < math.inf or not 0 <= decay < math.inf:
            raise SettingsError(
                f"learning rate {rate}, weight decay {decay}; expected > 0 and >= 0"
            )


@dataclass(frozen=True)
class DpSgdSettings:
    """The target guarantee of a training with differential privacy, and its hyperparameters.

    All of it has to be chosen without looking at the institution's data. The noise is found from
    it by bisection.

    Raises:
        SettingsError: a number out of range.
    """

    epsilon: float
    """> 0; the training ends at or a little below it."""
    delta: float = 1e-5
    """In (0, 1), well below one over the number of images."""
    clipping: float = 1.0
    """Largest L2 norm of what one image adds to a gradient, > 0."""
    epochs: int = 30
    """How often each image is taken on average, >= 1."""
    sampling_rate: float = 0.05
    """Probability of each image to be taken in a step, in (0, 1].

    It is given instead of a batch size, because a batch size over the number of images would
    disclose that number.
    """
    learning_rate: float = 5e-3
    """Of Adam, > 0; it falls to 0 along a cosine."""
    accountant: str = "prv"
    """prv or rdp, see `fedkd.privacy.accounting`."""

    def __post_init__(self) -> None:
        positive = (self.epsilon, self.clipping, self.learning_rate)
        if not all(0 < number < math.inf for number in positive) or self.epochs < 1:
            raise SettingsError(
                f"epsilon {self.epsilon}, clipping {self.clipping}, learning rate "
                f"{self.learning_rate}, {self.epochs} epochs; each must be above 0"
            )
        if not (0 < self.delta < 1 and 0 < self.sampling_rate <= 1):
            raise SettingsError(
                f"delta {self.delta}, sampling rate {self.sampling_rate}; expected (0, 1) and "
                f"(0, 1]"
            )

    @property
    def steps(self) -> int:
        """Of the training."""
        return round(self.epochs / self.sampling_rate)


ProgressCallback = Callable[[int, int], None]
"""Called with how many epochs are done, and of how many."""
