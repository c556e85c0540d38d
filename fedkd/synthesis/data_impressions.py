"""Soft targets around how alike classes are, which is estimated from answers. Asks nobody."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedkd.core.state import State
from fedkd.errors import SettingsError

LEAST = 1e-4
"""Added to every concentration: it has to be positive."""


@dataclass(frozen=True)
class Impressions:
    """Targets of images that are drawn from Dirichlet distributions.

    Attributes:
        scales: of the concentrations, > 0; images take them in turn.
        temperature: of the answers from which similarity is estimated, > 0.
        first: images of a class that are to show it alone, before its similarity counts, >= 1.
    """

    scales: tuple[float, ...] = (1.0, 0.1)
    temperature: float = 20.0
    first: int = 1

    def __post_init__(self) -> None:
        if not self.scales or not all(0 < scale < math.inf for scale in self.scales):
            raise SettingsError(f"impressions: expected scales > 0, got {self.scales}")
        if not 0 < self.temperature < math.inf or self.first < 1:
            raise SettingsError(
                f"impressions: temperature {self.temperature}, first {self.first}; "
                "expected > 0 and >= 1"
            )


class Similarity:
    """How alike the teachers find classes, by what they say of images that were made to show one.

    Args:
        impressions: how targets are drawn from it.
        classes: K.
    """

    def __init__(self, impressions: Impressions, classes: int) -> None:
        self.impressions = impressions
        self._total = torch.zeros(classes, classes)
        self._count = torch.zeros(classes)

    @property
    def known(self) -> bool:
        """Whether every class has been seen often enough."""
        return bool((self._count >= self.impressions.first).all())

    @property
    def matrix(self) -> Tensor:
        """(K, K): row c is the mean softened answer to images of class c, stretched to [0, 1]."""
        mean = self._total / self._count.clamp_min(1)[:, None]
        low, high = mean.amin(1, keepdim=True), mean.amax(1, keepdim=True)
        return (mean - low) / (high - low).clamp_min(1e-12)

    def hear(self, classes: Tensor, said: Tensor) -> None:
        """Learn from logits (B, K) of images that were made to show ``classes`` (B,)."""
        softened = (said / self.impressions.temperature).softmax(1)
        self._total.index_add_(0, classes, softened)
        self._count += classes.bincount(minlength=len(self._count))

    def draw(self, classes: Tensor, rng: torch.Generator) -> Tensor:
        """Probabilities (B, K): of class c from Dir(scale * row c), the scales in turn."""
        scales = torch.tensor(self.impressions.scales)[
            torch.arange(len(classes)) % len(self.impressions.scales)
        ]
        concentration = (scales[:, None] * self.matrix[classes] + LEAST).double().numpy()
        # torch draws Dirichlet variates from its global stream only.
        stream = np.random.default_rng(int(torch.randint(2**62, (), generator=rng)))
        drawn = np.stack([stream.dirichlet(each) for each in concentration])
        return torch.tensor(drawn, dtype=torch.float32)

    def state(self) -> State:
        """What was heard."""
        return State({"total": self._total.clone(), "count": self._count.clone()})

    def restore(self, state: State) -> None:
        """Know again what was known when ``state`` was taken."""
        self._total = state.tensors["total"].clone()
        self._count = state.tensors["count"].clone()
