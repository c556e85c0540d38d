"""Schedules: values that change with progress, constant or along a linear ramp."""

import math
from collections.abc import Callable
from typing import TypeAlias

from fedkd.errors import SettingsError

Schedule: TypeAlias = Callable[[float], float]
"""Progress in [0, 1] -> a value >= 0. Whose progress it is, whoever holds the schedule says."""

CHECKED = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Progress at which schedules of weights are looked at."""


def constant(value: float) -> Schedule:
    """The same value at all times."""
    return lambda progress: value


FULL = constant(1.0)
"""Weight of a term that is not scaled."""


def ramp(start: float, stop: float, begin: float = 0.25, end: float = 0.75) -> Schedule:
    """``start`` until ``begin``, then linearly to ``stop`` at ``end``, then constant.

    The form in which CuDFKD raises the weight of its adversarial term.
    """

    def value(progress: float) -> float:
        share = (progress - begin) / (end - begin) if end > begin else float(progress >= end)
        return start + (stop - start) * min(max(share, 0.0), 1.0)

    return value


def expect_weights(what: str, schedule: Schedule) -> None:
    """Check a schedule of weights: every term is minimised, so that none may be below 0.

    Raises:
        SettingsError: a value that is negative or not finite.
    """
    for progress in CHECKED:
        if not 0 <= schedule(progress) < math.inf:
            raise SettingsError(
                f"{what} is {schedule(progress)} at {progress:.0%} of the run; "
                "expected a finite number >= 0"
            )


def ever(schedule: Schedule) -> bool:
    """Whether a schedule is above 0 at any progress that is looked at."""
    return any(schedule(progress) for progress in CHECKED)
