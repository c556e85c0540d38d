"""Transforms of a procedural prior: warping and CutMix."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fedkd.core.interfaces import Prior
from fedkd.errors import SettingsError
from fedkd.procedural.drawing_primitives import (
    Shape,
    blob_masks,
    to_uint8,
    warped,
)

_BLOCK = 2**18  # pixel values rendered at once: a few float32 copies of them fit a core's cache


@dataclass(frozen=True)
class Warped:
    """A share of another prior's images under a random affine map and a smooth displacement.

    Rotation by up to 45 degrees, zoom of 0.7 to 1.4, shift by up to 15 % of a side, displacement by
    about 3 % of it; reflected at the border.

    Source: the nonlinear transform of DIP-KD (arXiv 2604.25794).
    """

    prior: Prior
    """Whose images are warped."""
    share: float = 0.5
    """Of the images that are, in [0, 1]; 0 leaves every byte as it was."""

    def __post_init__(self) -> None:
        require(0 <= self.share <= 1, self, "share in [0, 1]")

    def draw(self, count: int, shape: Shape, rng: torch.Generator) -> Tensor:
        """As `Prior.draw`."""
        images = self.prior.draw(count, shape, rng)
        for part in _chosen(count, self.share, shape, rng):
            images[part] = to_uint8(warped(images[part] / 255.0, rng))
        return images


@dataclass(frozen=True)
class CutMixed:
    """A share of another prior's images, each mixed with a second one by a mask of smooth blobs.

    Such an image has evidence for two classes, and shows how a teacher weighs them.

    Source: CutMix (Yun et al., ICCV 2019), with blobs as in DIP-KD (arXiv 2604.25794).
    """

    prior: Prior
    """Where both images come from."""
    share: float = 0.5
    """Of the images that are mixed, in [0, 1]; 0 leaves every byte as it was."""

    def __post_init__(self) -> None:
        require(0 <= self.share <= 1, self, "share in [0, 1]")

    def draw(self, count: int, shape: Shape, rng: torch.Generator) -> Tensor:
        """As `Prior.draw`; of a single image nothing is mixed."""
        images = self.prior.draw(count, shape, rng)
        step = int(torch.randint(1, max(2, count), (), generator=rng))
        others = images.roll(step, 0)
        for part in _chosen(count, self.share, shape, rng):
            blob = blob_masks(len(part), shape, rng)
            images[part] = to_uint8(torch.lerp(images[part] / 255.0, others[part] / 255.0, blob))
        return images


def require(valid: bool, value: object, expected: str) -> None:
    """Check a parameter of a prior.

    Raises:
        SettingsError: it is not as expected.
    """
    if not valid:
        raise SettingsError(f"{value!r} cannot be; expected {expected}")


def images_per_block(shape: Shape) -> int:
    """Images rendered at once."""
    return max(1, _BLOCK // math.prod(shape))


def _chosen(count: int, share: float, shape: Shape, rng: torch.Generator) -> tuple[Tensor, ...]:
    """Indices of a random share of the images, split into blocks."""
    chosen = (torch.rand(count, generator=rng) < share).nonzero().flatten()
    return torch.split(chosen, images_per_block(shape)) if len(chosen) else ()
