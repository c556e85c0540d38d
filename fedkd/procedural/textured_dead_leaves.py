"""Procedural priors for teachers of photographs: dead leaves with textured, shaded surfaces.

They presume that photographs show lit surfaces that hide one another, and no more.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from fedkd.procedural.base import ProceduralPrior
from fedkd.procedural.drawing_primitives import (
    Shape,
    correlated_channels,
    pixel_centres,
    power_law_noise,
    random_placement,
    uniform,
    uniform_between,
)
from fedkd.procedural.warp_and_cutmix import require


@dataclass(frozen=True)
class TexturedDeadLeaves(ProceduralPrior):
    """Dead leaves of any outline that hide one another, each with a surface of its own.

    Source: dead-leaves model (Lee, Mumford and Huang, IJCV 2001), textured as in Baradad et al.,
    NeurIPS 2021; outlines and light are ours.
    """

    leaves: int = 12
    """Most on one image, >= 1; their number is log-uniform."""
    radii: tuple[float, float] = (0.1, 0.6)
    """In sides of the image, density ~ r^-3 between; 0 < low <= high."""

    def __post_init__(self) -> None:
        require(self.leaves >= 1, self, "leaves >= 1")
        require(0 < self.radii[0] <= self.radii[1], self, "0 < low <= high for radii")

    def _render(self, count: int, shape: Shape, rng: torch.Generator) -> Tensor:
        image = self._surface(count, shape, rng)
        many = self.leaves ** uniform(count, rng).flatten()
        steepness = max(shape[1:]) * 3.0 ** -uniform(count, rng)  # edges 1 to 3 pixels wide
        for leaf in range(self.leaves):
            here = (leaf < many).nonzero().flatten()
            if len(here):
                inside = self._inside(len(here), shape, rng)
                cover = (inside * steepness[here] + 0.5).clamp_(0.0, 1.0)
                bulge = uniform_between(-1.0, 1.0, len(here), rng) * inside.clamp(0.0, 0.3)
                leaf_image = self._surface(len(here), shape, rng) + bulge
                image[here] = torch.lerp(image[here], leaf_image, cover)
        return image

    def _inside(self, count: int, shape: Shape, rng: torch.Generator) -> Tensor:
        """Depth of each pixel inside a random leaf, in sides of the image; (count, 1, H, W)."""
        radius, across, along, squeeze = random_placement(count, shape, self.radii, rng)
        along = along * squeeze
        oval, box = torch.hypot(across, along), torch.maximum(across, along)
        wobble = 0.4 * uniform(count, rng) * radius * _smooth_noise(count, shape, rng)
        return radius - torch.where(uniform(count, rng) < 0.6, oval, box) + wobble

    @abstractmethod
    def _surface(self, count: int, shape: Shape, rng: torch.Generator) -> Tensor:
        """(count, C, H, W), what covers the ground or a leaf."""


@dataclass(frozen=True)
class Collage(TexturedDeadLeaves):
    """Dead leaves whose surfaces are of one colour, grained or striped, and lit from a side."""

    stripes: float = 0.3
    """Share of surfaces that have stripes, in [0, 1]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.stripes <= 1, self, "stripes in [0, 1]")

    def _surface(self, count: int, shape: Shape, rng: torch.Generator) -> Tensor:
        """(count, C, H, W), surfaces of one colour with grain, stripes and a gradient of light."""
        y, x = pixel_centres(shape)
        grain = correlated_channels(
            power_law_noise(count, shape, uniform_between(0.7, 2.5, count, rng), rng), rng
        )
        image = _colour(count, shape[0], rng) + grain * 0.02 * 15.0 ** uniform(count, rng)
        angle, turns = (
            uniform_between(0.0, 2 * math.pi, count, rng),
            1.5 * 8.0 ** uniform(count, rng),
        )
        along = (x - 0.5) * angle.cos() + (y - 0.5) * angle.sin()
        wave = torch.sin(2 * math.pi * (turns * along + uniform(count, rng)))
        striped = uniform(count, rng) < self.stripes
        tint = 0.6 * (_colour(count, shape[0], rng) - 0.5)
        light = uniform_between(-0.5, 0.5, count, rng)
        return image + striped * tint * wave + light * along


def _smooth_noise(count: int, shape: Shape, rng: torch.Generator) -> Tensor:
    return power_law_noise(count, (1, *shape[1:]), torch.full((count, 1, 1, 1), 2.5), rng)


def _colour(count: int, channels: int, rng: torch.Generator) -> Tensor:
    """Random colours, mostly of low saturation; (count, channels, 1, 1)."""
    grey, strength = uniform(count, rng), uniform(count, rng)
    return grey + strength * strength * (uniform(count, rng, channels) - 0.5)
