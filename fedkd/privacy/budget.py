"""Privacy budget of a data set: composition of trainings and noisy answers, and what is left.

Guarantees about the same images are put together by basic composition: epsilons add and deltas
add. That is loose, and it holds whatever later settings were chosen by (Rogers, Roth, Ullman and
Vadhan, 2016), which the best order of a sum of Renyi curves does not. Noisy answers add up among
themselves in micro-rho, which is tight, and become one (epsilon, delta).

The unit of privacy decides what is added to what. A guarantee for the whole data set holds for each
image in it; a guarantee for an image says nothing of the whole data set, so that nothing can be
guaranteed for that any more once there is one.
"""

import math
from dataclasses import dataclass, replace
from fractions import Fraction

from fedkd.errors import SettingsError
from fedkd.privacy.accounting import epsilon_of_rho, rho_of_epsilon


@dataclass(frozen=True)
class Spending:
    """The privacy spent on a data set, as the ledger states it."""

    image_rho: int = 0
    """Micro-rho of answers that protect one image."""
    data_set_rho: int = 0
    """Micro-rho of answers that protect the whole data set, and by that each image in it."""
    trainings: tuple[tuple[float, float], ...] = ()
    """(epsilon, delta) for one image of each private training that was started."""
    unpromised: int = 0
    """Samples that were answered without any guarantee."""

    @property
    def micro_rho(self) -> int:
        """Cost of all noisy answers, for one image."""
        return self.image_rho + self.data_set_rho

    @property
    def epsilon(self) -> Fraction:
        """Sum over all trainings."""
        return sum((_exact(epsilon) for epsilon, _ in self.trainings), Fraction())

    @property
    def delta(self) -> Fraction:
        """Sum over all trainings."""
        return sum((_exact(delta) for _, delta in self.trainings), Fraction())

    def with_training(self, epsilon: float, delta: float) -> "Spending":
        """The same spending and one training more."""
        return replace(self, trainings=(*self.trainings, (epsilon, delta)))

    def without_training(self, epsilon: float, delta: float) -> "Spending":
        """The same spending without one training of this (epsilon, delta)."""
        trainings = list(self.trainings)
        trainings.remove((epsilon, delta))
        return replace(self, trainings=tuple(trainings))


@dataclass(frozen=True)
class Budget:
    """The (epsilon, delta) that one data set may ever cost, in all modes together.

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
        """Largest cost of noisy answers where nothing else is spent."""
        return rho_of_epsilon(self.epsilon, self.delta)

    def and_another(self, epsilon: float, delta: float) -> "Budget":
        """This and the guarantee of one more training, added in exact decimals."""
        both = _exact(self.epsilon) + _exact(epsilon), _exact(self.delta) + _exact(delta)
        return Budget(*map(float, both))

    def epsilon_of(self, micro_rho: int) -> float:
        """The epsilon of that many micro-rho at this budget's delta."""
        return epsilon_of_rho(micro_rho, self.delta)

    def remaining_after(self, spent: Spending) -> "Budget | None":
        """The budget left for noisy answers after all trainings; None where nothing is left."""
        if not spent.trainings:
            return self
        epsilon = _exact(self.epsilon) - spent.epsilon
        delta = _exact(self.delta) - spent.delta
        if epsilon <= 0 or delta <= 0 or not rho_of_epsilon(_below(epsilon), _below(delta)):
            return None
        return Budget(_below(epsilon), _below(delta))

    def limit(self, spent: Spending, whole_data_set: bool) -> int:
        """Micro-rho that noisy answers may cost in all, including what they have cost already.

        Args:
            spent: on the same images.
            whole_data_set: the guarantee is for the whole data set, and not for one image.
        """
        if whole_data_set:
            return 0 if spent.image_rho or spent.trainings else self.micro_rho
        left = self.remaining_after(spent)
        return 0 if left is None else left.micro_rho

    def covers(self, spent: Spending) -> bool:
        """Whether ``spent`` is within the budget, for one image."""
        if spent.epsilon > _exact(self.epsilon) or spent.delta > _exact(self.delta):
            return False
        return not spent.micro_rho or spent.micro_rho <= self.limit(spent, whole_data_set=False)


def _exact(number: float) -> Fraction:
    """The fraction with the same decimal digits, so that 1e-5 and 1e-5 are 2e-5."""
    return Fraction(str(number))


def _below(number: Fraction) -> float:
    """The nearest float that is not greater."""
    near = float(number)
    return near if Fraction(near) <= number else math.nextafter(near, 0.0)
