"""Interface of a domain: what a sample is, an image or a row of a table; see `fedkd.domains`."""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Domain(Protocol):
    """What samples (B, C, H, W) are, and what follows for their synthesis."""

    @property
    def kind(self) -> str:
        """``images`` or ``table``."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of a sample."""

    def generator(self, latent: int) -> nn.Module:
        """A network that is trained to synthesise samples: (B, latent) -> (B, C, H, W) in [0, 1].

        It has ``latent`` as an attribute; its first weights come from torch's global stream.
        """

    def mutated(self, samples: Tensor, rng: torch.Generator) -> Tensor:
        """Variants of banked samples (B, C, H, W), of the same type and shape."""

    def record(self) -> Mapping[str, Any]:
        """What stands in ``result.json``: the kind, and the columns of a table."""
