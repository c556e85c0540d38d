"""Priors of images: distributions of synthetic images that need no data.

    images = prior("levels", warp=0.5).draw(256, (1, 28, 28), torch.Generator().manual_seed(0))

A prior is a frozen value. The same value, count, shape and state of the generator give the same
bytes, whatever the number of threads. A prior is good where teachers find every class in it, which
depends on the teachers: `fedkd.synthesis.prior_sampling.prior_source` chooses among priors by their
answers.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkd.procedural.base import ProceduralPrior
from fedkd.procedural.drawing_primitives import (
    Shape,
    colourised,
    correlated_channels,
    pixel_centres,
    power_law_noise,
    random_placement,
    squared_distance_to_curve,
    uniform,
    uniform_between,
)
from fedkd.procedural.warp_and_cutmix import require

_MIN_RADIUS = 0.6  # pixels: a pen of a smaller radius would leave a faint and broken line


@dataclass(frozen=True)
class PinkNoise(ProceduralPrior):
    """Gaussian noise of amplitude spectrum 1/f^b, normalised per image.

    From fine grain to a slow gradient, from faint to saturated. Natural images have this spectrum,
    so that filters learned on them all respond.

    Source: power laws of natural images (Field, JOSA A 1987), where b is near 1.
    """

    exponents: tuple[float, float] = (0.5, 2.5)
    """Range of b, uniform over images; 0 <= low <= high."""
    gains: tuple[float, float] = (0.1, 1.0)
    """Range of the standard deviation before clamping, 1 = black to white; 0 <= low <= high."""

    def __post_init__(self) -> None:
        for name, (low, high) in (("exponents", self.exponents), ("gains", self.gains)):
            require(0 <= low <= high, self, f"0 <= low <= high for {name}")

    def _render(self, count: int, shape: Shape, rng: torch.Generator) -> Tensor:
        fields = power_law_noise(count, shape, uniform_between(*self.exponents, count, rng), rng)
        gain, brightness = uniform_between(*self.gains, count, rng), uniform(count, rng)
        return correlated_channels(fields, rng) * gain + brightness


@dataclass(frozen=True)
class DeadLeaves(ProceduralPrior):
    """Dead leaves: flat ovals and boxes that hide one another, on an even ground.

    Objects with sharp outlines, corners and occlusion, which noise lacks. From one leaf (a lone
    thing on a ground) to as many as cover it; some images are blurred, some are grainy.

    Source: dead-leaves model (Lee, Mumford and Huang, IJCV 2001).
    """

    leaves: int = 10
    """Most on one image, >= 1; their number is log-uniform."""
    radii: tuple[float, float] = (0.15, 0.5)
    """In sides of the image, density ~ r^-3 between; 0 < low <= high."""
    black: float = 0.5
    """Share of images whose ground is black and not of a random colour, in [0, 1]."""

    def __post_init__(self) -> None:
        require(self.leaves >= 1, self, "leaves >= 1")
        require(0 < self.radii[0] <= self.radii[1], self, "0 < low <= high for radii")
        require(0 <= self.black <= 1, self, "black in [0, 1]")

    def _render(self, count: int, shape: Shape, rng: torch.Generator) -> Tensor:
        channels, height, width = shape
        ground = uniform(count, rng, channels) * (uniform(count, rng) >= self.black)
        image = ground.expand(count, *shape).clone()
        many = self.leaves ** uniform(count, rng)
        steepness = max(height, width) * 3.0 ** -uniform(count, rng)  # edges 1 to 3 pixels wide
        for leaf in range(self.leaves):
            cover = (self._inside(count, shape, rng) * steepness + 0.5).clamp_(0.0, 1.0)
            image += cover * (leaf < many) * (uniform(count, rng, channels) - image)
        grain = uniform_between(-0.1, 0.1, count, rng).clamp_min_(0.0)
        return image + grain * power_law_noise(count, shape, torch.ones(count, 1, 1, 1), rng)

    def _inside(self, count: int, shape: Shape, rng: torch.Generator) -> Tensor:
        """Depth of each pixel inside a random leaf, in sides of the image; (count, 1, H, W)."""
        radius, across, along, squeeze = random_placement(count, shape, self.radii, rng)
        along = along / squeeze
        oval, box = torch.hypot(across, along), torch.maximum(across, along)
        return radius - torch.where(uniform(count, rng) < 0.6, oval, box)


@dataclass(frozen=True)
class LevelSets(ProceduralPrior):
    """Level sets of smooth noise: light blobs and curved bands on a dark, even ground.

    Sparse shapes, which noise of a full spectrum never shows; teachers of sparse images call
    everything else one class.

    Source: ours.
    """

    bands: float = 0.5
    """Share of images that show the band |f - t| < w and not the set f > t, in [0, 1]."""
    inverted: float = 0.1
    """Share of images that are dark on light, in [0, 1]; with colours both are random."""
    centring: float = 5.0
    """Most by which f is raised in the middle over the corners, in standard deviations; >= 0."""

    def __post_init__(self) -> None:
        require(0 <= self.bands <= 1 and 0 <= self.inverted <= 1, self, "shares in [0, 1]")
        require(self.centring >= 0, self, "centring >= 0")

    def _render(self, count: int, shape: Shape, rng: torch.Generator) -> Tensor:
        field = power_law_noise(count, (1, *shape[1:]), uniform_between(2.0, 4.0, count, rng), rng)
        y, x = pixel_centres(shape)
        bowl = 2 * ((y - 0.5) ** 2 + (x - 0.5) ** 2) - 1 / 3  # of zero mean, deep by one
        field -= self.centring * uniform(count, rng) * bowl
        level, softness = (
            uniform_between(0.0, 1.0, count, rng),
            uniform_between(0.05, 0.3, count, rng),
        )
        inside = torch.sigmoid((field - level) / softness)
        reach = uniform_between(0.15, 0.6, count, rng)
        # Bands lie nearer the median than sets do, where a level set has its longest outline.
        band = torch.sigmoid((reach - (field - level / 2).abs_()) / (softness / 2))
        shown = torch.where(uniform(count, rng) < self.bands, band, inside)
        shown *= uniform_between(0.5, 1.0, count, rng)
        shown = torch.where(uniform(count, rng) < self.inverted, 1.0 - shown, shown)
        return colourised(shown, shape[0], rng)


@dataclass(frozen=True)
class MultiscaleNoise(ProceduralPrior):
    """Multiscale noise: random grids of 1, 2, 4, ... cells, upsampled, added with random weights.

    One scale stands out on each image, as one does in textures.

    Source: hierarchical noise of DIP-KD (arXiv 2604.25794); sharper weights and contrast are ours.
    """

    sharpness: float = 3.0
    """Of the weights softmax(sharpness * N(0, 1)) over scales, >= 0; 0 weighs all alike."""
    contrast: float = 6.0
    """Most by which the range, once stretched to black and white, is stretched again; >= 1."""

    def __post_init__(self) -> None:
        require(self.sharpness >= 0 and self.contrast >= 1, self, "sharpness >= 0, contrast >= 1")

    def _render(self, count: int, shape: Shape, rng: torch.Generator) -> Tensor:
        channels, *size = shape
        scales = math.ceil(math.log2(max(size))) + 1
        weight = (self.sharpness * torch.randn(scales, count, 1, 1, 1, generator=rng)).softmax(0)
        total = torch.zeros(count, *shape)
        for d in range(scales):
            grid = torch.rand(count, channels, 2**d, 2**d, generator=rng)
            total += weight[d] * F.interpolate(grid, size=size, mode="bilinear")
        dark, light = total.amin((1, 2, 3), keepdim=True), total.amax((1, 2, 3), keepdim=True)
        unit = (total - dark) / (light - dark).clamp_min_(1e-6)
        middle = uniform_between(0.1, 0.9, count, rng)
        return (unit - middle) * uniform_between(1.0, self.contrast, count, rng) + 0.5


@dataclass(frozen=True)
class Strokes(ProceduralPrior):
    """Pen strokes: a few curves, light on dark, that may join and close into loops.

    For teachers of handwriting, line drawings, wires and vessels.
    Cubic Bezier curves whose outer control points may leave the image, which bends them more.

    Source: ours.
    """

    curves: int = 3
    """Most on one image, >= 1."""
    radii: tuple[float, float] = (0.03, 0.12)
    """Of the pen in sides of the image, log-uniform, at least 0.6 pixels; 0 < low <= high."""
    joined: float = 0.5
    """Share of curves that begin where the last one ended, in [0, 1]."""
    closed: float = 0.15
    """Share of curves that end where they began, in [0, 1]."""

    def __post_init__(self) -> None:
        require(self.curves >= 1, self, "curves >= 1")
        require(0 < self.radii[0] <= self.radii[1], self, "0 < low <= high for radii")
        require(0 <= self.joined <= 1 and 0 <= self.closed <= 1, self, "shares in [0, 1]")

    def _render(self, count: int, shape: Shape, rng: torch.Generator) -> Tensor:
        pixels = max(shape[1:])
        many = torch.randint(1, self.curves + 1, (count, 1, 1, 1), generator=rng)
        squared = torch.full((count, 1, *shape[1:]), math.inf)
        end: Tensor | None = None
        for curve in range(self.curves):
            knots = self._knots(end, count, rng)
            end = knots[3]
            near = squared_distance_to_curve(knots, shape)
            squared = torch.where(curve < many, torch.minimum(squared, near), squared)
        thin, thick = self.radii
        radius = (thin * (thick / thin) ** uniform(count, rng)).clamp_min_(_MIN_RADIUS / pixels)
        ink = ((radius - squared.sqrt_()) * pixels + 0.5).clamp_(0.0, 1.0)
        return colourised(ink * uniform_between(0.5, 1.0, count, rng), shape[0], rng)

    def _knots(self, end: Tensor | None, count: int, rng: torch.Generator) -> Tensor:
        """Control points of one curve for each image, (4, 2, count, 1, 1, 1), y before x."""
        knots = torch.rand(4, 2, count, 1, 1, 1, generator=rng)
        knots[1:3] = 1.6 * knots[1:3] - 0.3
        if end is not None:
            knots[0] = torch.where(uniform(count, rng) < self.joined, end, knots[0])
        knots[3] = torch.where(uniform(count, rng) < self.closed, knots[0], knots[3])
        return knots


@dataclass(frozen=True)
class UniformNoise(ProceduralPrior):
    """Uniform noise, each value independent: the baseline that every other prior has to beat.

    All of it looks alike to a network, and teachers find a class or two in it.
    """

    def _render(self, count: int, shape: Shape, rng: torch.Generator) -> Tensor:
        return torch.randint(0, 256, (count, *shape), generator=rng) / 255.0
