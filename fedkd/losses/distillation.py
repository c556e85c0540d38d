"""How a student is held against answers: losses of each sample. Knows neither of them otherwise."""

import math
from collections.abc import Callable
from typing import TypeAlias

import torch.nn.functional as F
from torch import Tensor

from fedkd.errors import SettingsError

Imitation: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""((B, K) student logits, (B, K) target logits) -> (B,) loss of each sample."""


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


def divergence(temperature: float = 4.0) -> Imitation:
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


IMITATIONS: dict[str, Imitation] = {
    "l1_centred": l1_centred,
    "squared_centred": squared_centred,
    "kl": divergence(),
    "cross_entropy": cross_entropy,
}


def imitation_named(name: str) -> Imitation:
    """The student's loss of that name.

    Raises:
        SettingsError: there is none.
    """
    if name not in IMITATIONS:
        raise SettingsError(f"unknown imitation {name!r}; choose one of {', '.join(IMITATIONS)}")
    return IMITATIONS[name]
