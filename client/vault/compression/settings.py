"""Settings of the compression of a teacher."""

import math
from dataclasses import dataclass, field

from fedkd.client.vault.training.settings import DpSgdSettings
from fedkd.core.augmentation import Augmentation
from fedkd.errors import SettingsError


@dataclass(frozen=True)
class ShrinkSettings:
    """How much narrower the teacher becomes, and how the narrower network is trained.

    Raises:
        SettingsError: a number out of range.
    """

    width: float = 0.5
    """Fraction of the channels that every layer keeps, in (0, 1)."""
    images: int = 5
    """Training images of each class that it is trained on, >= 1; all where a class has fewer.
    Of no meaning where ``dp_training`` is given."""
    steps: int = 150
    """Steps of each stage, >= 1: there are 2 L - 1 stages for L blocks."""
    last_steps: int = 3000
    """Steps in which the whole narrow network learns the teacher's answers at the end, >= 0. Of no
    meaning where ``dp_training`` is given."""
    learning_rate: float = 0.01
    """Of Adam for each block alone and at the end, > 0; 0.4 times as much for joined blocks."""
    augmentation: Augmentation = field(default_factory=lambda: Augmentation(shift=1))
    """Of every image, anew in each step; then each is mixed with others."""
    dp_training: DpSgdSettings | None = None
    """Where given, all images train it with differential privacy, instead of ``images`` of them;
    its ``epochs`` are those of all blocks together."""

    def __post_init__(self) -> None:
        if not 0 < self.width < 1:
            raise SettingsError(f"width {self.width}; expected a fraction between 0 and 1")
        rate = self.learning_rate
        counts = min(self.images, self.steps)
        if counts < 1 or self.last_steps < 0 or not 0 < rate < math.inf:
            raise SettingsError(
                f"{self.images} images of a class, {self.steps} steps, {self.last_steps} last "
                f"steps, learning rate {rate}; expected 1 or more images and steps, 0 or more "
                "last steps, and a rate above 0"
            )
