"""Distillation losses: how far a student's logits are from the target, sample by sample."""

import math

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
