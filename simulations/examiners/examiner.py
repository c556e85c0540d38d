"""Interface of an examiner, and examiners by name: ours, or ``package.module:factory``."""

from collections.abc import Callable
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedkd.core.plugins import import_factory
from fedkd.errors import SettingsError
from fedkd.simulations.examiners.cartpole import CartPole

Act: TypeAlias = Callable[[NDArray[np.float64]], NDArray[np.int64]]
"""A policy: observations (E, D) in their own units -> (E,) indices of actions."""


class Examiner(Protocol):
    """An environment in which a policy is tried; the coordinator has none."""

    @property
    def actions(self) -> tuple[str, ...]:
        """Names of the actions: the classes of teachers and student."""

    def mean_return(self, act: Act) -> float:
        """Mean return of the same episodes for every policy."""


EXAMINERS: dict[str, Callable[[], Examiner]] = {"cartpole": CartPole}
"""Ours, by name."""


def build_examiner(name: str) -> Examiner:
    """The examiner of that name.

    Args:
        name: of ours, or ``package.module:factory``, a function without arguments.

    Raises:
        SettingsError: there is none.
    """
    if name in EXAMINERS:
        return EXAMINERS[name]()
    if ":" not in name:
        raise SettingsError(
            f"unknown examiner {name!r}; choose one of {', '.join(EXAMINERS)}, or name a factory "
            "of yours as package.module:factory"
        )
    made: Examiner = import_factory("examiner", name)()
    if not hasattr(made, "mean_return"):
        raise SettingsError(f"examiner {name!r} is a {type(made).__name__} without mean_return()")
    return made
