"""Recipes: descriptions from which both sides render the same synthetic samples.

Values here are frozen; tensors in them are not to be written to.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

RECIPE_VERSION = 1
"""Version of all recipes: it rises when a name or a seed comes to mean other samples."""


@dataclass(frozen=True)
class NamedPrior:
    """A procedural prior by its name, see `fedkd.procedural.build_prior`."""

    name: str
    warp: float = 0.0
    mix: float = 0.0


@dataclass(frozen=True, eq=False)
class FrozenGenerator:
    """The weights of a `fedkd.models.Generator` at one time of its training."""

    latent: int
    """Z."""
    digest: bytes
    """Of its weights, by `fedkd.protocol.fingerprint`."""
    weights: Tensor | None = None
    """``(P,)`` float16, see `fedkd.procedural.renderer`; None: those that were sent before."""


@dataclass(frozen=True, eq=False)
class Recipe:
    """How samples are rendered, so that they need not be sent. See `fedkd.procedural.renderer`."""

    source: NamedPrior | FrozenGenerator
    seed: int
    """In [0, 2**32)."""
    count: int
    """Samples that are rendered."""
    kept: Tensor | None = None
    """``(count,)`` bool: which of them belong to the query; None: all."""

    def __len__(self) -> int:
        """B, samples of the query."""
        return self.count if self.kept is None else int(self.kept.sum())

    def select(self, which: Tensor) -> "Recipe":
        """The same recipe for a part of its samples: ``which``, (B,) bool."""
        if bool(which.all()):
            return self
        kept = torch.ones(self.count, dtype=torch.bool) if self.kept is None else self.kept.clone()
        kept[kept.clone()] = which
        return replace(self, kept=kept)
