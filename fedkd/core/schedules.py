"""Schedules: values that change with progress, constant or along a linear ramp."""

import math
from collections.abc import Callable, Mapping
from itertools import accumulate
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


class ExpectedProgress:
    """How far each of several sources is expected to be, who share a run by schedules.

    ``integral_0^d s_i / sum_j s_j  /  integral_0^1 s_i / sum_j s_j`` at a share d of the questions:
    0 before a source's first question is expected, and 1 after its last. It depends on the
    schedules alone, so that a run that is resumed needs no state of it.

    Args:
        shares: by name, each followed along the questions.
        cells: of the midpoint rule, > 0.
    """

    def __init__(self, shares: Mapping[str, Schedule], cells: int = 1000) -> None:
        self._cells = cells
        middles = [(cell + 0.5) / cells for cell in range(cells)]
        totals = [sum(share(d) for share in shares.values()) for d in middles]
        self._so_far: dict[str, list[float]] = {}
        for name, share in shares.items():
            each = (
                share(d) / total if total else 0.0 for d, total in zip(middles, totals, strict=True)
            )
            self._so_far[name] = list(accumulate(each, initial=0.0))

    def of(self, name: str, done: float) -> float:
        """Of that source, in [0, 1], at a share ``done`` of the questions.

        A source without a schedule, or without a share, follows the questions themselves.
        """
        so_far = self._so_far.get(name)
        if so_far is None or not so_far[-1]:
            return done
        at = min(max(done, 0.0), 1.0) * self._cells
        cell = min(int(at), self._cells - 1)
        here = so_far[cell] + (at - cell) * (so_far[cell + 1] - so_far[cell])
        return here / so_far[-1]


def ever(schedule: Schedule) -> bool:
    """Whether a schedule is above 0 at any progress that is looked at."""
    return any(schedule(progress) for progress in CHECKED)
