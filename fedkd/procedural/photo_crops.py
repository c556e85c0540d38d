"""Priors of photographs without anybody's data: crops of two photographs, alone and as collages.

The two ship with scikit-learn: a building in China and a flower. Crops of them have the edges,
textures and light of a real scene, which no formula has.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from fedkd.errors import SettingsError
from fedkd.procedural.base import ProceduralPrior
from fedkd.procedural.drawing_primitives import Shape, pixel_centres, uniform, uniform_between
from fedkd.procedural.textured_dead_leaves import TexturedDeadLeaves
from fedkd.procedural.warp_and_cutmix import require

PHOTOGRAPHS = ("china.jpg", "flower.jpg")
"""Files of scikit-learn's sample images."""
_GREY_AXIS = 1 / math.sqrt(3)


@dataclass(frozen=True)
class PhotoCrops(ProceduralPrior):
    """Crops of two photographs: any place, scale, angle, shear, mirrored, recoloured.

    Of several crops the one with most contrast is taken, since most of a photograph is flat.

    Source: Asano and Saeed, ICLR 2023 (arXiv 2112.00725), whose crops are of one photograph and
    whose augmentations are those of torchvision. The choice by contrast and the turned hue are
    ours.
    """

    sides: tuple[float, float] = (0.08, 0.8)
    """Of a crop, in shorter sides of the photograph, log-uniform; 0 < low <= high <= 1."""
    tries: int = 3
    """Crops of which the one of largest standard deviation is taken, >= 1."""

    def __post_init__(self) -> None:
        require(0 < self.sides[0] <= self.sides[1] <= 1, self, "0 < low <= high <= 1 for sides")
        require(self.tries >= 1, self, "tries >= 1")

    def _render(self, count: int, shape: Shape, rng: torch.Generator) -> Tensor:
        crops = torch.stack([self._crops(count, shape, rng) for _ in range(self.tries)])
        best = crops.std((2, 3, 4)).argmax(0)
        return recoloured(crops[best, torch.arange(count)], shape[0], rng)

    def _crops(self, count: int, shape: Shape, rng: torch.Generator) -> Tensor:
        """(count, 3, H, W) in [0, 1]."""
        pyramids = photographs()
        low, high = self.sides
        side = low * (high / low) ** uniform(count, rng)
        which = torch.randint(len(pyramids), (count,), generator=rng)
        # The level of the pyramid at which a pixel of the crop is one to two pixels wide.
        pixels = side.flatten() * pyramids[0][0].shape[1] / max(shape[1:])
        level = pixels.log2().floor().clamp(0, len(pyramids[0]) - 1).long()
        grid = _placements(side, shape, pyramids[0][0].shape[2] / pyramids[0][0].shape[1], rng)
        crops = torch.empty(count, 3, *shape[1:])
        for photo, pyramid in enumerate(pyramids):
            for step, image in enumerate(pyramid):
                here = ((which == photo) & (level == step)).nonzero().flatten()
                if len(here):
                    rows = grid[here].reshape(1, -1, shape[2], 2)
                    found = F.grid_sample(
                        image[None], rows, padding_mode="reflection", align_corners=False
                    )
                    crops[here] = found.view(3, len(here), *shape[1:]).movedim(1, 0)
        return crops


@dataclass(frozen=True)
class PhotoCollage(TexturedDeadLeaves):
    """Dead leaves whose surfaces are crops of the two photographs, any of `PhotoCrops`."""

    def _surface(self, count: int, shape: Shape, rng: torch.Generator) -> Tensor:
        return PhotoCrops(tries=1)._render(count, shape, rng)


@lru_cache(maxsize=1)
def photographs() -> tuple[tuple[Tensor, ...], ...]:
    """Both photographs in [0, 1], each as a pyramid of (3, H, W) that halves at each level.

    Raises:
        SettingsError: scikit-learn, which ships them, is not installed.
    """
    spec = find_spec("sklearn")  # its files alone are needed, and importing it takes a second
    if spec is None or not spec.submodule_search_locations:
        raise SettingsError(
            "priors of photographs take two that ship with scikit-learn, which is not installed; "
            "pip install scikit-learn, or leave these priors out"
        )
    folder = Path(spec.submodule_search_locations[0], "datasets", "images")
    return tuple(_pyramid(_read(folder / name)) for name in PHOTOGRAPHS)


def _read(path: Path) -> Tensor:
    """(3, H, W) in [0, 1]."""
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).movedim(2, 0) / 255.0


def _pyramid(image: Tensor) -> tuple[Tensor, ...]:
    levels = [image]
    while min(levels[-1].shape[1:]) >= 32:
        levels.append(F.avg_pool2d(levels[-1], 2))
    return tuple(levels)


def _placements(side: Tensor, shape: Shape, aspect: float, rng: torch.Generator) -> Tensor:
    """Where each pixel of each crop lies in a photograph: (B, H, W, 2), x and y in [-1, 1]."""
    count = len(side)
    y, x = (2 * centre - 1 for centre in pixel_centres(shape))
    angle = uniform_between(-math.pi / 6, math.pi / 6, count, rng)
    shear = uniform_between(-0.5, 0.5, count, rng)
    mirror = torch.where(uniform(count, rng) < 0.5, -1.0, 1.0)
    stretch = (0.75 / 1.333) ** (uniform(count, rng) / 2 - 0.25)
    across, along = mirror * stretch * (x + shear * y), y / stretch
    dx = side / aspect * (angle.cos() * across - angle.sin() * along)
    dy = side * (angle.sin() * across + angle.cos() * along)
    room_x, room_y = (1 - side / aspect), (1 - side)
    centre_x = room_x * uniform_between(-1.0, 1.0, count, rng)
    centre_y = room_y * uniform_between(-1.0, 1.0, count, rng)
    return torch.cat([centre_x + dx, centre_y + dy], 1).permute(0, 2, 3, 1)


def recoloured(images: Tensor, channels: int, rng: torch.Generator) -> Tensor:
    """(B, 3, H, W) -> (B, C, H, W): turned hue, and other saturation, contrast and brightness.

    Grey, or its equal in every channel, where C is not 3.
    """
    count = len(images)
    turn = uniform_between(-math.pi, math.pi, count, rng) * (uniform(count, rng) < 0.5)
    saturation = uniform_between(0.0, 1.6, count, rng)
    contrast, shift = 0.6 * 3.0 ** uniform(count, rng), uniform_between(-0.25, 0.25, count, rng)
    grey = images.mean(1, keepdim=True)
    if channels == 3:
        tint = images - grey
        # Rodrigues' rotation about the grey axis, to which a tint is at right angles.
        cross = _GREY_AXIS * (tint.roll(1, 1) - tint.roll(-1, 1))
        coloured = grey + saturation * (turn.cos() * tint + turn.sin() * cross)
    else:
        coloured = grey.expand(-1, channels, -1, -1)
    middle = grey.mean((2, 3), keepdim=True)
    return middle + shift + contrast * (coloured - middle)
