"""The differential privacy guarantee that an institution states on its card.

It holds nothing that depends on the private data.
"""

import math
from dataclasses import dataclass

from fedkd.errors import SettingsError

VERSION = 1
"""Of the meaning of these fields."""
MAX_TEXT_LENGTH = 64
"""Characters of a field that is text."""


@dataclass(frozen=True)
class Guarantee:
    """An (epsilon, delta) guarantee, and the mechanism that provides it.

    For neighbouring data sets D and D' and any set S of outcomes,
    P[outcome of D in S] <= e^epsilon P[outcome of D' in S] + delta.
    Of DP-SGD an outcome is a trained teacher, and so everything that is computed from one: answers,
    gradients of answers, students, however many are asked for and by whomever. Of mechanisms that
    answer with noise, an outcome is all that is ever released under the budget of the institution's
    ledger, by whichever teachers of the same images; epsilon is the whole budget, spent or not.

    What was spent on the same images before, in any mode with a guarantee and by the institution's
    ledger, is included: trainings and noisy answers add up.

    It does not cover: class counts; images that the teacher was not trained on, such as those
    that a student is scored on; the choice of settings, where they were chosen by looking at the
    same images; what was released about the same images without a guarantee, or by another ledger;
    what a later card promises about them; how long an answer takes. It protects a unit: somebody
    of whom there are n images has n times this epsilon and more of the delta, unless the unit is
    the whole data set.

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
    """Probability that a unit takes part in a step, in (0, 1]; chosen, not computed from the data.
    1 for answers."""
    clipping: float
    """Most by which one unit moves a step or an answer, in L2 norm; > 0."""
    unit: str = "one training image"
    """The unit of privacy: what is protected."""
    adjacency: str = "add or remove"
    """How neighbouring data sets differ: by one unit, which one has and the other has not."""
    mechanism: str = "DP-SGD"
    accountant: str = "prv"
    """How epsilon of the mechanism was computed: prv, rdp or zcdp, see `fedkd.privacy.accounting`.
    What was spent before is added by basic composition, see `fedkd.privacy.budget`."""
    version: int = VERSION
    unpromised: int = 0
    """Samples that were answered before from the same data without any guarantee, by the
    institution's ledger. The guarantee covers what is released from now on."""

    def __post_init__(self) -> None:
        texts = (self.unit, self.adjacency, self.mechanism, self.accountant)
        if not all(0 < len(text) <= MAX_TEXT_LENGTH and text.isprintable() for text in texts):
            raise SettingsError(
                f"texts of a guarantee are 1 to {MAX_TEXT_LENGTH} printable characters"
            )
        if self.version != VERSION:
            raise SettingsError(f"a guarantee of version {self.version}; expected {VERSION}")
        positive = (self.epsilon, self.noise_multiplier, self.clipping)
        if self.unpromised < 0:
            raise SettingsError(
                f"a guarantee with {self.unpromised} answers before it; expected 0 or more"
            )
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
        """Whether it guarantees (epsilon, delta), or more."""
        return self.epsilon <= epsilon and self.delta <= delta

    def __str__(self) -> str:
        return f"{self.mechanism}, {self.unit} ({self.adjacency})"
