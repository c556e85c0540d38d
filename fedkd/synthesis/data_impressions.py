"""Data impressions: pixels optimised towards soft targets drawn by the similarity of classes.

How alike classes are is estimated from answers. Source: ZSKD (Nayak et al., ICML 2019).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedkd.core.checkpoint_state import Part, State
from fedkd.core.interfaces import Context
from fedkd.errors import SettingsError
from fedkd.synthesis.parameterisation import Drawn
from fedkd.synthesis.pixel_and_latent_parameterisation import (
    InvertedBatch,
    InvertedPixels,
    PixelBatch,
)

LEAST = 1e-4
"""Added to every concentration: it has to be positive."""


@dataclass(frozen=True, eq=False)
class DataImpressions(PixelBatch):
    """Settings of pixels whose targets are drawn from Dirichlet distributions.

    Attributes:
        scales: of the concentrations, > 0; images take them in turn.
        temperature: of the answers from which similarity is estimated, > 0.
        first: images of a class that are to show it alone, before its similarity counts, >= 1.
    """

    scales: tuple[float, ...] = (1.0, 0.1)
    temperature: float = 20.0
    first: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.scales or not all(0 < scale < math.inf for scale in self.scales):
            raise SettingsError(f"data impressions: expected scales > 0, got {self.scales}")
        if not 0 < self.temperature < math.inf or self.first < 1:
            raise SettingsError(
                f"data impressions: temperature {self.temperature}, first {self.first}; "
                "expected > 0 and >= 1"
            )

    def build(self, context: Context) -> InvertedBatch:
        """The target."""
        return ImpressedPixels(self, context)


class ImpressedPixels(InvertedPixels):
    """Pixels that show single classes first, and then what is drawn around similar ones."""

    def __init__(self, settings: DataImpressions, context: Context) -> None:
        super().__init__(settings, context)
        self.similarity = ClassSimilarity(settings, context.classes)
        self._drawn = 0
        self._answer: Tensor | None = None

    def begin(self, rng: torch.Generator) -> bool:
        """Another batch; targets are probabilities as soon as similarity is known."""
        if self._answer is not None and self.class_targets.ndim == 1:
            self.similarity.hear(self.class_targets[: len(self._answer)], self._answer)
        self._answer = None
        anew = super().begin(rng)
        if self.similarity.known:
            self.class_targets = self.similarity.draw(self.class_targets, rng)
        return anew

    def draw(self, count: int, rng: torch.Generator, learning: bool) -> Drawn:
        """The first ``count`` of the batch."""
        drawn = super().draw(count, rng, learning)
        self._drawn = len(drawn.images)
        return drawn

    def hear(self, target: Tensor) -> None:
        """The last answer to a whole batch tells how its classes lie."""
        if len(target) == self._drawn:
            self._answer = target

    def state(self) -> State:
        """With the last answer."""
        state = super().state()
        answer = {} if self._answer is None else {"answer": self._answer.clone()}
        return State({**state.tensors, **answer}, state.numbers)

    def restore(self, state: State) -> None:
        """Be again as when ``state`` was taken."""
        super().restore(state)
        answer = state.tensors.get("answer")
        self._answer = None if answer is None else answer.clone()

    @property
    def parts(self) -> dict[str, Part]:
        """With what is known of similarity."""
        return {**super().parts, "similarity": self.similarity}


class ClassSimilarity:
    """How alike the teachers find classes, by their answers to images that are to show one.

    Args:
        settings: how targets are drawn from it.
        classes: K.
    """

    def __init__(self, settings: DataImpressions, classes: int) -> None:
        self.settings = settings
        self._total = torch.zeros(classes, classes)
        self._count = torch.zeros(classes)

    @property
    def known(self) -> bool:
        """Whether every class has been seen often enough."""
        return bool((self._count >= self.settings.first).all())

    @property
    def matrix(self) -> Tensor:
        """(K, K): row c is the mean softened answer to images of class c, stretched to [0, 1]."""
        mean = self._total / self._count.clamp_min(1)[:, None]
        low, high = mean.amin(1, keepdim=True), mean.amax(1, keepdim=True)
        return (mean - low) / (high - low).clamp_min(1e-12)

    def hear(self, classes: Tensor, logits: Tensor) -> None:
        """Learn from logits (B, K) of images that are to show ``classes`` (B,)."""
        softened = (logits / self.settings.temperature).softmax(1)
        self._total.index_add_(0, classes, softened)
        self._count += classes.bincount(minlength=len(self._count))

    def draw(self, classes: Tensor, rng: torch.Generator) -> Tensor:
        """Probabilities (B, K): of class c from Dir(scale * row c), the scales in turn."""
        scales = torch.tensor(self.settings.scales)[
            torch.arange(len(classes)) % len(self.settings.scales)
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
