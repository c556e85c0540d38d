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
    Of DP-SGD an outcome is a trained teacher, and so everything that is computed from one: answers,
    gradients of answers, students, however many are asked for and by whomever. Of mechanisms that
    answer with noise, an outcome is all that is ever told under the budget of the institution's
    ledger, by whichever teachers of the same images; epsilon is the whole budget, spent or not.

    What the same images had spent before in any promising mode, by the institution's books, is in
    it: trainings and noisy answers add up.

    It does not cover: class counts; images that the teacher was not trained on, such as those
    that a student is scored on; the choice of settings, where they were chosen by looking at the
    same images; what was told of the same images without a promise, or from other books; what a
    later card promises of them; how long an answer takes. It protects a unit: somebody of whom
    there are n images has n times this epsilon and more of the delta, unless the unit is the whole
    data set.

    Raises:
        SettingsError: a number out of range.
    """

    epsilon: float
    """> 0."""
    delta: float
    """In (0, 1); should be well below one over the number of units."""
    steps: int
    """Noisy steps of the training, or answers that the budget pays for; >= 1."""
    noise_multiplier: float
    """Standard deviation of the noise, in units of ``clipping``; > 0."""
    sampling_rate: float
    """Chance of a unit to take part in a step, in (0, 1]; chosen, not computed from the data. 1
    for answers."""
    clipping: float
    """Most by which one unit moves a step or an answer, in L2 norm; > 0."""
    unit: str = "one training image"
    """What is protected."""
    adjacency: str = "add or remove"
    """How neighbouring data sets differ: by one unit, which one has and the other has not."""
    mechanism: str = "DP-SGD"
    accountant: str = "prv"
    """How epsilon of the mechanism was computed: prv, rdp or zcdp, see `fedkd.privacy.accounting`.
    What was spent before is added by basic composition, see `fedkd.privacy.budget`."""
    version: int = VERSION
    unpromised: int = 0
    """Images that were answered before, about the same data and without any promise, by the
    institution's books. The promise is of what is told from now on: what was told is told."""

    def __post_init__(self) -> None:
        words = (self.unit, self.adjacency, self.mechanism, self.accountant)
        if not all(0 < len(word) <= LONGEST_WORD and word.isprintable() for word in words):
            raise SettingsError(f"a guarantee's words are 1 to {LONGEST_WORD} printable characters")
        if self.version != VERSION:
            raise SettingsError(f"a guarantee of version {self.version}; expected {VERSION}")
        positive = (self.epsilon, self.noise_multiplier, self.clipping)
        if self.unpromised < 0:
            raise SettingsError(f"a guarantee beside {self.unpromised} answers; expected 0 or more")
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

    def implies(self, epsilon: float, delta: float) -> bool:
        """Whether as much is promised, or more."""
        return self.epsilon <= epsilon and self.delta <= delta

    def __str__(self) -> str:
        return f"{self.mechanism}, {self.unit} ({self.adjacency})"
