"""One budget for a data set, whichever modes spend it. Knows no books: it is told what they say.

What promises have been spent on the same images is put together by basic composition: epsilons
add and deltas add. That is loose, and it holds whatever later settings were chosen by (Rogers,
Roth, Ullman and Vadhan, 2016), which the best order of a sum of Renyi curves does not. Noisy
answers add up among themselves in micro-rho, which is tight, and become one (epsilon, delta).

A unit decides what counts for what. A promise about the whole data set holds for each image in it;
a promise about an image says nothing of the whole data set, so that nothing can be promised of that
any more once there is one.
"""

import math
from dataclasses import dataclass, replace
from fractions import Fraction

from fedkd.errors import SettingsError
from fedkd.privacy.accounting import epsilon_of_rho, rho_of_epsilon


@dataclass(frozen=True)
class Spending:
    """What was told of some images, as the books know it."""

    image_rho: int = 0
    """Micro-rho of answers that protect one image."""
    whole_rho: int = 0
    """Micro-rho of answers that protect the whole data set, and by that each image in it."""
    trainings: tuple[tuple[float, float], ...] = ()
    """(epsilon, delta) for one image of each private training that was begun."""
    unpromised: int = 0
    """Images that were answered without any promise."""

    @property
    def micro_rho(self) -> int:
        """Of all noisy answers, for one image."""
        return self.image_rho + self.whole_rho

    @property
    def epsilon(self) -> Fraction:
        """Of all trainings."""
        return sum((_exact(epsilon) for epsilon, _ in self.trainings), Fraction())

    @property
    def delta(self) -> Fraction:
        """Of all trainings."""
        return sum((_exact(delta) for _, delta in self.trainings), Fraction())

    def with_training(self, epsilon: float, delta: float) -> "Spending":
        """The same with one training more."""
        return replace(self, trainings=(*self.trainings, (epsilon, delta)))

    def without_training(self, epsilon: float, delta: float) -> "Spending":
        """The same with one such training less."""
        trainings = list(self.trainings)
        trainings.remove((epsilon, delta))
        return replace(self, trainings=tuple(trainings))


@dataclass(frozen=True)
class Budget:
    """All the privacy that one data set may ever cost, in every mode together.

    Raises:
        SettingsError: a number out of range, or a budget that grants nothing.
    """

    epsilon: float
    """> 0."""
    delta: float = 1e-5
    """In (0, 1), well below one over the number of images."""

    def __post_init__(self) -> None:
        if not self.micro_rho:
            raise SettingsError(
                f"policy.budget of epsilon {self.epsilon} at delta {self.delta} grants nothing"
            )

    def __str__(self) -> str:
        return f"epsilon {self.epsilon:g} at delta {self.delta:g}"

    @property
    def micro_rho(self) -> int:
        """What noisy answers may cost where nothing else is spent."""
        return rho_of_epsilon(self.epsilon, self.delta)

    def epsilon_of(self, micro_rho: int) -> float:
        """What so much is worth at this delta."""
        return epsilon_of_rho(micro_rho, self.delta)

    def remaining_after(self, spent: Spending) -> "Budget | None":
        """What trainings leave of it for noisy answers; None where they leave nothing."""
        if not spent.trainings:
            return self
        epsilon = _exact(self.epsilon) - spent.epsilon
        delta = _exact(self.delta) - spent.delta
        if epsilon <= 0 or delta <= 0 or not rho_of_epsilon(_below(epsilon), _below(delta)):
            return None
        return Budget(_below(epsilon), _below(delta))

    def limit(self, spent: Spending, whole: bool) -> int:
        """Micro-rho that noisy answers may cost in all, with what they have cost already.

        Args:
            spent: on the same images.
            whole: the promise is of the whole data set, and not of one image.
        """
        if whole:
            return 0 if spent.image_rho or spent.trainings else self.micro_rho
        left = self.remaining_after(spent)
        return 0 if left is None else left.micro_rho

    def covers(self, spent: Spending) -> bool:
        """Whether all that was spent is within it, for one image."""
        if spent.epsilon > _exact(self.epsilon) or spent.delta > _exact(self.delta):
            return False
        return not spent.micro_rho or spent.micro_rho <= self.limit(spent, whole=False)


def _exact(number: float) -> Fraction:
    """As it is written in decimals, so that 1e-5 and 1e-5 are 2e-5."""
    return Fraction(str(number))


def _below(number: Fraction) -> float:
    """The float next to it, on the safe side."""
    near = float(number)
    return near if Fraction(near) <= number else math.nextafter(near, 0.0)
