"""What differential privacy an institution promises, as a value. Knows no mechanism and no proof.

It travels on the card, so it holds nothing that depends on the private data.
"""

import math
from dataclasses import dataclass

from fedkd.errors import SettingsError

VERSION = 1
"""Of the meaning of these fields."""
LONGEST_WORD = 64
"""Characters of a field that is a word."""


@dataclass(frozen=True)
class Guarantee:
    """An (epsilon, delta) promise, and how it is kept.

    For neighbouring data sets D and D' and any set S of outcomes,
    P[outcome of D in S] <= e^epsilon P[outcome of D' in S] + delta.
    Here an outcome is a trained teacher, and so everything that is computed from one: answers,
    gradients of answers, students, however many are asked for and by whomever.

    It does not cover: class counts; images that the teacher was not trained on, such as those
    that a student is scored on; the choice of settings, where they were chosen by looking at the
    same images; a second teacher of the same images, whose epsilon and delta add to these; how
    long an answer takes. It protects a unit: somebody of whom there are n images has n times
    this epsilon.

    Raises:
        SettingsError: a number out of range.
    """

    epsilon: float
    """> 0."""
    delta: float
    """In (0, 1); should be well below one over the number of units."""
    steps: int
    """Noisy steps of the training, >= 1."""
    noise_multiplier: float
    """Standard deviation of the noise, in units of ``clipping``; > 0."""
    sampling_rate: float
    """Chance of a unit to take part in a step, in (0, 1]; chosen, not computed from the data."""
    clipping: float
    """Largest L2 norm of what one unit adds to a step; > 0."""
    unit: str = "one training image"
    """What is protected."""
    adjacency: str = "add or remove"
    """How neighbouring data sets differ: by one unit, which one has and the other has not."""
    mechanism: str = "DP-SGD"
    accountant: str = "prv"
    """How epsilon was computed from the steps: prv or rdp, see `fedkd.privacy.accounting`."""
    version: int = VERSION

    def __post_init__(self) -> None:
        words = (self.unit, self.adjacency, self.mechanism, self.accountant)
        if not all(0 < len(word) <= LONGEST_WORD and word.isprintable() for word in words):
            raise SettingsError(f"a guarantee's words are 1 to {LONGEST_WORD} printable characters")
        if self.version != VERSION:
            raise SettingsError(f"a guarantee of version {self.version}; expected {VERSION}")
        positive = (self.epsilon, self.noise_multiplier, self.clipping)
        if not all(0 < number < math.inf for number in positive) or self.steps < 1:
            raise SettingsError(
                f"a guarantee of epsilon {self.epsilon}, noise {self.noise_multiplier}, clipping "
                f"{self.clipping}, {self.steps} steps; each must be above 0"
            )
        if not (0 < self.delta < 1 and 0 < self.sampling_rate <= 1):
            raise SettingsError(
                f"a guarantee of delta {self.delta}, sampling rate {self.sampling_rate}; expected "
                f"(0, 1) and (0, 1]"
            )

    def __str__(self) -> str:
        return f"{self.mechanism}, {self.unit} ({self.adjacency})"
