"""Recipes: descriptions from which both sides draw the same synthetic samples.

Values here are frozen; tensors in them are not to be written to.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

RECIPE_VERSION = 1
"""Version of the book of recipes: it rises when a name or a seed comes to mean other images."""


@dataclass(frozen=True)
class NamedPrior:
    """A prior by name, see `fedkd.procedural.build_prior`."""

    name: str
    warp: float = 0.0
    mix: float = 0.0


@dataclass(frozen=True, eq=False)
class FrozenGenerator:
    """A `fedkd.models.generators.Generator` that learns no more."""

    latent: int
    """Z."""
    digest: bytes
    """Of its weights, by `fingerprint`."""
    weights: Tensor | None = None
    """``(P,)`` float16, see `fedkd.procedural.renderer`; None: those that came before."""


@dataclass(frozen=True, eq=False)
class Recipe:
    """How images are drawn, so that they need not be shown. See `fedkd.procedural.renderer`."""

    source: NamedPrior | FrozenGenerator
    seed: int
    """In [0, 2**32)."""
    count: int
    """Images that are drawn."""
    kept: Tensor | None = None
    """``(count,)`` bool: which of them are meant; None: all."""

    def __len__(self) -> int:
        """B, images that are meant."""
        return self.count if self.kept is None else int(self.kept.sum())

    def select(self, which: Tensor) -> "Recipe":
        """Those of the images that are meant that are ``which``, (B,) bool."""
        if bool(which.all()):
            return self
        kept = torch.ones(self.count, dtype=torch.bool) if self.kept is None else self.kept.clone()
        kept[kept.clone()] = which
        return replace(self, kept=kept)
