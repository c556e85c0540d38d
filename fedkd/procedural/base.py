"""Base class of procedural priors: rendering in blocks of float32, and conversion to uint8."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from fedkd.errors import SettingsError
from fedkd.procedural.drawing_primitives import Shape, to_uint8
from fedkd.procedural.warp_and_cutmix import images_per_block


class ProceduralPrior(ABC):
    """A prior that renders in float32, block by block; values outside [0, 1] are clamped."""

    def draw(self, count: int, shape: Shape, rng: torch.Generator) -> Tensor:
        """As `Prior.draw`."""
        if count < 0 or min(shape) < 1:
            raise SettingsError(
                f"asked for {count} images of shape {shape}; expected a count >= 0 and sides >= 1"
            )
        images = torch.empty(count, *shape, dtype=torch.uint8)
        for block in torch.split(images, images_per_block(shape)) if count else ():
            block.copy_(to_uint8(self._render(len(block), shape, rng)))
        return images

    @abstractmethod
    def _render(self, count: int, shape: Shape, rng: torch.Generator) -> Tensor:
        """(count, C, H, W) float32, black at 0 and white at 1."""
