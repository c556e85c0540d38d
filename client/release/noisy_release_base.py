"""Base of the noisy release modes ``pate`` and ``local-dp``: logits only, charged to a budget."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, Generic, TypeVar

from torch import Tensor

from fedkd.errors import NeedsError, SettingsError
from fedkd.models import Teacher
from fedkd.privacy import Budget, Mechanism, Policy, min_deviation
from fedkd.protocol import Guarantee, Signal

_Teacher = TypeVar("_Teacher", bound=Teacher)
_Mechanism = TypeVar("_Mechanism", bound=Mechanism)


@dataclass(frozen=True)
class NoisyRelease(ABC, Generic[_Teacher, _Mechanism]):
    """A release mode with noise; subclasses compute the noisy answers. See `ReleaseMode`.

    Raises:
        SettingsError: the budget is too small for one answer.
    """

    policy: Policy
    teacher: _Teacher
    mechanism: _Mechanism
    unit: ClassVar[str]
    adjacency: ClassVar[str]
    signals = frozenset({Signal.LOGITS})
    pull_back = False
    batch_statistics = False

    def __post_init__(self) -> None:
        if self.cost > self.budget.micro_rho:
            raise SettingsError(
                f"an answer costs {self.cost} micro-rho and policy.budget grants "
                f"{self.budget.micro_rho}; raise policy.noise, or the budget"
            )

    @property
    def budget(self) -> Budget:
        """The policy's budget; a mode that charges privacy has one."""
        if self.policy.budget is None:
            raise SettingsError(f"policy.mode {self.policy.mode} needs a policy.budget")
        return self.policy.budget

    @property
    def cost(self) -> int:
        """See `ReleaseMode.cost`."""
        return self.mechanism.cost

    @property
    def name(self) -> str:
        """See `ReleaseMode.name`."""
        return f"{self.policy.mode} {self.mechanism}"

    @property
    def guarantee(self) -> Guarantee:
        """The guarantee of the whole budget, however much of it is spent."""
        budget, sensitivity = self.budget, math.sqrt(self.mechanism.squared_sensitivity)
        return Guarantee(
            epsilon=budget.epsilon_of(budget.micro_rho),
            delta=budget.delta,
            steps=budget.micro_rho // self.cost,
            noise_multiplier=float(self.mechanism.deviation) / sensitivity,
            sampling_rate=1.0,
            clipping=sensitivity,
            unit=self.unit,
            adjacency=self.adjacency,
            mechanism=self.policy.mode,
            accountant="zcdp",
        )

    @abstractmethod
    def noisy_answers(self, images: Tensor) -> Tensor:
        """See `ReleaseMode.noisy_answers`."""

    @abstractmethod
    def to_logits(self, noisy: Tensor) -> Tensor:
        """See `ReleaseMode.to_logits`."""

    def ask(
        self, images: Tensor, signals: frozenset[Signal], batch_statistics: bool = False
    ) -> dict[Signal, Tensor]:
        """Always raises: nothing is released without a charge."""
        raise NeedsError(f"mode {self.policy.mode} tells nothing without noise")

    def gradient(
        self, images: Tensor, cotangents: Mapping[Signal, Tensor], batch_statistics: bool = False
    ) -> Tensor:
        """Always raises, likewise."""
        raise NeedsError(f"mode {self.policy.mode} has no gradients")


def noise_deviation(policy: Policy, squared_sensitivity: Fraction) -> Fraction:
    """The policy's noise, or the least with which its budget covers all of its samples.

    Raises:
        SettingsError: there is no budget, or it is too small to be divided.
    """
    if policy.noise is not None:
        return policy.noise
    if policy.budget is None or not policy.samples:
        raise SettingsError("policy.noise is found from policy.budget and policy.samples; say both")
    each = policy.budget.micro_rho // policy.samples
    if not each:
        raise SettingsError(
            f"policy.budget grants {policy.budget.micro_rho} micro-rho, which {policy.samples} "
            "samples cannot share; raise it, or lower policy.samples"
        )
    return min_deviation(squared_sensitivity, each)
