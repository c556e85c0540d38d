"""Privacy accounting: zero-concentrated DP of noisy answers, and epsilon of DP-SGD trainings.

Two units of cost; `fedkd.privacy.budget` composes them:

    micro-rho     zero-concentrated DP of (discrete) Gaussian releases: whole millionths, rounded
                  up when charged and down when granted, so that sums are exact and may be capped
                  whatever the questions are (rho is a valid filter under adaptive choice)
    events        steps of DP-SGD, fixed before the training begins: epsilon by Opacus' accountants

Both give (epsilon, delta) under adding or removing one unit.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from fedkd.errors import SettingsError

MICRO_PER_RHO = 10**6
"""Micro-rho in one rho."""
MAX_MICRO_RHO = 10**12
"""Largest micro-rho that is converted; epsilon is then above a million."""
ACCOUNTANTS = ("prv", "rdp")
"""prv is tight to 0.01 and an upper bound; rdp is 5 to 10 % looser and exact to compute."""
TOLERANCE = 0.005
"""How far below its target the epsilon of a calibrated noise multiplier may be."""


# --- zero-concentrated DP, in whole millionths


def gaussian_cost(sensitivity: Fraction | int, deviation: Fraction | int, rows: int = 1) -> int:
    """Micro-rho of releasing rows with (discrete) Gaussian noise: rows D^2 / (2 s^2), rounded up.

    Args:
        sensitivity: D, the most by which one row may move in L2 norm, > 0; the diameter of all
            answers, where nothing better is proven of the teacher.
        deviation: s of the noise on each coordinate, in the unit of ``sensitivity``, > 0.
        rows: released, >= 1.

    Raises:
        SettingsError: a number out of range.
    """
    if sensitivity <= 0 or deviation <= 0 or rows < 1:
        raise SettingsError(
            f"sensitivity {sensitivity}, noise {deviation}, {rows} rows; each must be above 0"
        )
    return squared_cost(Fraction(sensitivity) ** 2, deviation, rows)


def squared_cost(squared: Fraction | int, deviation: Fraction | int, rows: int = 1) -> int:
    """`gaussian_cost` from D^2, where D itself is no fraction, such as the square root of 2.

    Raises:
        SettingsError: a number out of range.
    """
    if squared <= 0 or deviation <= 0 or rows < 1:
        raise SettingsError(
            f"squared sensitivity {squared}, noise {deviation}, {rows} rows; each must be above 0"
        )
    rho = rows * Fraction(squared) / (2 * Fraction(deviation) ** 2)
    return math.ceil(rho * MICRO_PER_RHO)


def min_deviation(squared: Fraction | int, micro_rho: int) -> Fraction:
    """The smallest deviation, in 64ths, with which a release costs at most ``micro_rho``.

    Raises:
        SettingsError: a number out of range.
    """
    if squared <= 0 or micro_rho < 1:
        raise SettingsError(
            f"squared sensitivity {squared} within {micro_rho} micro-rho; each must be above 0"
        )
    # s^2 >= D^2 / (2 rho), in 64ths and rounded up.
    sixty_fourths = math.isqrt(
        math.ceil(4096 * Fraction(squared) * MICRO_PER_RHO / (2 * micro_rho)) - 1
    )
    return Fraction(sixty_fourths + 1, 64)


def epsilon_of_rho(micro_rho: int, delta: float) -> float:
    """The epsilon that ``micro_rho`` guarantees at ``delta``.

    Canonne, Kamath and Steinke (2020): the bound holds at every order, so whichever order is
    taken as the best, what is returned is no less than what is true.

    Raises:
        SettingsError: a number out of range.
    """
    if not 0 <= micro_rho <= MAX_MICRO_RHO:
        raise SettingsError(f"micro-rho {micro_rho}; expected 0 to {MAX_MICRO_RHO}")
    _check_delta(delta)
    if micro_rho == 0:
        return 0.0
    rho = micro_rho / MICRO_PER_RHO

    def bound(log_excess: float) -> float:
        order = 1 + math.exp(log_excess)
        rest = -math.log(delta) - log_excess + order * math.log1p(-1 / order)
        return order * rho + rest / (order - 1)

    low, high = -30.0, 30.0
    for _ in range(200):
        third = (high - low) / 3
        if bound(low + third) < bound(high - third):
            high -= third
        else:
            low += third
    # A negative bound means that epsilon 0 holds already. The last bits are the sum's own error.
    return max(0.0, bound((low + high) / 2)) * (1 + 1e-12)


@lru_cache(maxsize=256)
def rho_of_epsilon(epsilon: float, delta: float) -> int:
    """The most micro-rho that guarantees (epsilon, delta): a cap for a ledger.

    Raises:
        SettingsError: a number out of range.
    """
    _check_epsilon(epsilon)
    low, high = 0, MAX_MICRO_RHO + 1
    while high - low > 1:
        middle = (low + high) // 2
        if epsilon_of_rho(middle, delta) <= epsilon:
            low = middle
        else:
            high = middle
    return low


# --- DP-SGD


@dataclass(frozen=True)
class Event:
    """DP-SGD steps: each adds Gaussian noise to a sum over a Poisson sample of the units.

    Raises:
        SettingsError: a number out of range. Opacus' accountants take them all.
    """

    noise_multiplier: float
    """Standard deviation of the noise divided by the sensitivity, > 0."""
    sampling_rate: float
    """Probability of each unit to be in the sample, independently of the others; in (0, 1]."""
    steps: int
    """>= 1."""

    def __post_init__(self) -> None:
        if not 0 < self.noise_multiplier < math.inf:
            raise SettingsError(f"noise multiplier {self.noise_multiplier}; expected above 0")
        if not 0 < self.sampling_rate <= 1:
            raise SettingsError(f"sampling rate {self.sampling_rate}; expected in (0, 1]")
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise SettingsError(f"{self.steps} steps; expected a whole number above 0")


def epsilon_of_events(events: Sequence[Event], delta: float, accountant: str = "prv") -> float:
    """The epsilon that these events guarantee together at ``delta``; 0 for none.

    The events must have been fixed before the first of them: prv is no filter.

    Raises:
        SettingsError: a number out of range, or no such accountant.
    """
    _check_delta(delta)
    _check_accountant(accountant)
    if not events:
        return 0.0
    from opacus.accountants import create_accountant

    opacus_accountant = create_accountant(accountant)
    opacus_accountant.history = [(e.noise_multiplier, e.sampling_rate, e.steps) for e in events]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        epsilon = max(0.0, float(opacus_accountant.get_epsilon(delta)))
    if not epsilon < math.inf:
        raise SettingsError(f"the accountant {accountant} gives epsilon {epsilon}; add noise")
    return epsilon


@lru_cache(maxsize=256)
def calibrated_noise_multiplier(
    epsilon: float, delta: float, sampling_rate: float, steps: int, accountant: str = "prv"
) -> float:
    """Nearly the smallest noise multiplier that guarantees (epsilon, delta), found by bisection.

    Raises:
        SettingsError: a number out of range, or an epsilon that no noise reaches.
    """
    _check_epsilon(epsilon)

    @lru_cache(maxsize=4)
    def spent(multiplier: float) -> float:
        return epsilon_of_events([Event(multiplier, sampling_rate, steps)], delta, accountant)

    # Opacus' own search begins near 0, where prv needs gigabytes. This one begins at 1, and for
    # prv where rdp, which is quick, has ended: a little too high.
    high, factor = 1.0, 2.0
    if accountant == "prv":
        high, factor = (
            calibrated_noise_multiplier(epsilon, delta, sampling_rate, steps, "rdp"),
            1.15,
        )
    while spent(high) > epsilon:
        high *= factor
        if high > MICRO_PER_RHO:
            raise SettingsError(f"epsilon {epsilon} at delta {delta} is out of reach; raise it")
    low = high / factor
    while low > 1e-2 and spent(low) <= epsilon:
        low, high = low / factor, low
    while epsilon - spent(high) > TOLERANCE and high - low > 1e-6 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if spent(middle) <= epsilon else (middle, high)
    return high


# --- several institutions


def parallel_composition(guarantees: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """(epsilon, delta) of several institutions' releases by parallel composition: the maxima.

    It holds only under all of these conditions:

    * every unit is at one institution; for a unit at two of them the sum holds;
    * each institution chose its settings and trained without looking at another's answers;
    * data were partitioned without looking at the images, or the partition itself is public;
    * neighbours differ by adding or removing a unit; for replacing one, which may then move to
      another institution, it is twice the epsilon and more of the delta.

    Raises:
        SettingsError: none, or a number out of range.
    """
    if not guarantees:
        raise SettingsError("no guarantee to compose; expected one or more")
    for epsilon, delta in guarantees:
        _check_epsilon(epsilon)
        _check_delta(delta)
    return max(e for e, _ in guarantees), max(d for _, d in guarantees)


def _check_epsilon(epsilon: float) -> None:
    if not 0 < epsilon < math.inf:
        raise SettingsError(f"epsilon {epsilon}; expected a number above 0")


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise SettingsError(f"delta {delta}; expected in (0, 1)")


def _check_accountant(accountant: str) -> None:
    if accountant not in ACCOUNTANTS:
        raise SettingsError(
            f"unknown accountant {accountant!r}; choose one of {', '.join(ACCOUNTANTS)}"
        )
