"""Distillation losses: how far a student's logits are from the target, sample by sample."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkd.core.task import Loss
from fedkd.errors import SettingsError


def l1_centred(student: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference of centred logits: an offset of all classes says nothing. (B,)."""
    s = student - student.mean(1, keepdim=True)
    t = target - target.mean(1, keepdim=True)
    return (s - t).abs().mean(1)


def squared_centred(student: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference of centred logits. (B,)."""
    s = student - student.mean(1, keepdim=True)
    t = target - target.mean(1, keepdim=True)
    return (s - t).square().mean(1)


def nothing(student: Tensor, target: Tensor) -> Tensor:
    """0 of each sample: what the student learns is a student part's. (B,)."""
    return 0.0 * student.sum(1)


def kl_divergence(temperature: float = 4.0) -> Loss:
    """tau^2 KL(softmax(T/tau) || softmax(S/tau)). (B,).

    Raises:
        SettingsError: a temperature that is not a finite number > 0.
    """
    if not 0 < temperature < math.inf:
        raise SettingsError(f"expected a finite temperature > 0, got {temperature}")

    def loss(student: Tensor, target: Tensor) -> Tensor:
        return temperature**2 * F.kl_div(
            (student / temperature).log_softmax(1),
            (target / temperature).log_softmax(1),
            reduction="none",
            log_target=True,
        ).sum(1)

    return loss


def cross_entropy(student: Tensor, target: Tensor) -> Tensor:
    """Of the student with the target's decision, and nothing else of the target. (B,)."""
    return F.cross_entropy(student, target.argmax(1), reduction="none")


@dataclass(frozen=True, eq=False)
class PerSlice:
    """A loss within each slice of the outputs: sum_i w_i L(S[:, slice_i], T[:, slice_i]).

    A divergence minds no level, so that of a slice against the others is left to chance. Where all
    slices weigh something, it is held: level * sum_i (m_i(S) - m_i(T))^2 is added, where m_i is the
    mean of a slice less that of all slices' means. It takes nothing from the divergence.

    Attributes:
        base: L, of one slice.
        weights: w_i >= 0, one above 0.
        level: weight of the slices' level, >= 0.
        slices: places of the outputs of each; none: all outputs are one slice, of weight 1.
    """

    base: Loss
    weights: tuple[float, ...] = ()
    level: float = 0.0
    slices: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.level < math.inf:
            raise SettingsError(f"level of slices {self.level}; expected a finite number >= 0")
        if self.weights and not (min(self.weights) >= 0 and 0 < sum(self.weights) < math.inf):
            raise SettingsError(
                f"weights of slices {self.weights}; expected finite numbers >= 0, one above 0"
            )

    def over(self, slices: Sequence[Sequence[int]]) -> "PerSlice":
        """The same over these slices of the outputs, one for each weight."""
        return replace(self, slices=tuple(map(tuple, slices)))

    def __call__(self, student: Tensor, target: Tensor) -> Tensor:
        """(B, K) and (B, K) -> (B,)."""
        if not self.slices:
            return self.base(student, target)
        terms = [
            weight * self.base(student[:, at], target[:, at])
            for weight, own in zip(self.weights, self.slices, strict=True)
            if weight
            for at in [torch.tensor(own, device=student.device)]
        ]
        if self.level and min(self.weights) > 0:
            apart = self._levels(student) - self._levels(target)
            terms.append(self.level * apart.square().sum(1))
        return torch.stack(terms).sum(0)

    def _levels(self, logits: Tensor) -> Tensor:
        """Mean of each slice less that of these means: (B, K) -> (B, slices)."""
        means = torch.stack([logits[:, list(own)].mean(1) for own in self.slices], 1)
        return means - means.mean(1, keepdim=True)


DISTILLATION_LOSSES: dict[str, Loss] = {
    "l1_centred": l1_centred,
    "squared_centred": squared_centred,
    "kl": kl_divergence(),
    "cross_entropy": cross_entropy,
}


def loss_named(name: str) -> Loss:
    """The student's loss of that name.

    Raises:
        SettingsError: there is none.
    """
    if name not in DISTILLATION_LOSSES:
        raise SettingsError(
            f"unknown distillation loss {name!r}; choose one of {', '.join(DISTILLATION_LOSSES)}"
        )
    return DISTILLATION_LOSSES[name]
