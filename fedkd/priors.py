"""Images invented without any data: procedural priors. Knows neither teachers nor students.

    images = prior("levels", warp=0.5).draw(256, (1, 28, 28), torch.Generator().manual_seed(0))

A prior is a frozen value. The same value, count, shape and state of the generator give the same
bytes, whatever the number of threads. What makes a prior good is that teachers find every class
in it, which depends on the teachers: `fedkd.sources` chooses among priors by what is answered.
"""

import difflib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkd.errors import SettingsError

Shape: TypeAlias = tuple[int, int, int]
"""(C, H, W) of one image."""

_BLOCK = 2**18  # pixel values painted at once: a few float32 copies of them fit a core's cache
_HAIR = 0.6  # pixels: a pen of a smaller radius would leave a faint and broken line


class Prior(Protocol):
    """Something that draws images out of nothing."""

    def draw(self, count: int, shape: Shape, rng: torch.Generator) -> Tensor:
        """``count`` images of ``shape`` (C, H, W): (count, C, H, W) uint8 in 0..255.

        Raises:
            SettingsError: a negative count, or a side below 1.
        """


class _Painted(ABC):
    """A prior that paints in float32, block by block; what exceeds [0, 1] is cut off."""

    def draw(self, count: int, shape: Shape, rng: torch.Generator) -> Tensor:
        """As `Prior.draw`."""
        if count < 0 or min(shape) < 1:
            raise SettingsError(
                f"asked for {count} images of shape {shape}; expected a count >= 0 and sides >= 1"
            )
        images = torch.empty(count, *shape, dtype=torch.uint8)
        for block in torch.split(images, _per_block(shape)) if count else ():
            block.copy_(_bytes(self._paint(len(block), shape, rng)))
        return images

    @abstractmethod
    def _paint(self, count: int, shape: Shape, rng: torch.Generator) -> Tensor:
        """(count, C, H, W) float32, black at 0 and white at 1."""


@dataclass(frozen=True)
class Pink(_Painted):
    """Clouds, from fine grain to a slow gradient, from faint to burnt out.

    Natural images have this spectrum, so that filters learned on them all respond.
    Gaussian noise of amplitude spectrum 1/f^b, normalised per image.

    Source: power laws of natural images (Field, JOSA A 1987), where b is near 1.
    """

    exponents: tuple[float, float] = (0.5, 2.5)
    """Range of b, uniform over images; 0 <= low <= high."""
    gains: tuple[float, float] = (0.1, 1.0)
    """Range of the standard deviation before cutting off, 1 = black to white; 0 <= low <= high."""

    def __post_init__(self) -> None:
        for name, (low, high) in (("exponents", self.exponents), ("gains", self.gains)):
            _expect(0 <= low <= high, self, f"0 <= low <= high for {name}")

    def _paint(self, count: int, shape: Shape, rng: torch.Generator) -> Tensor:
        fields = _clouds(count, shape, _between(*self.exponents, count, rng), rng)
        gain, brightness = _between(*self.gains, count, rng), _uniform(count, rng)
        return _mixed_colours(fields, rng) * gain + brightness


@dataclass(frozen=True)
class Leaves(_Painted):
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
        _expect(self.leaves >= 1, self, "leaves >= 1")
        _expect(0 < self.radii[0] <= self.radii[1], self, "0 < low <= high for radii")
        _expect(0 <= self.black <= 1, self, "black in [0, 1]")

    def _paint(self, count: int, shape: Shape, rng: torch.Generator) -> Tensor:
        channels, height, width = shape
        ground = _uniform(count, rng, channels) * (_uniform(count, rng) >= self.black)
        image = ground.expand(count, *shape).clone()
        many = self.leaves ** _uniform(count, rng)
        steepness = max(height, width) * 3.0 ** -_uniform(count, rng)  # edges 1 to 3 pixels wide
        for leaf in range(self.leaves):
            cover = (self._inside(count, shape, rng) * steepness + 0.5).clamp_(0.0, 1.0)
            image += cover * (leaf < many) * (_uniform(count, rng, channels) - image)
        grain = _between(-0.1, 0.1, count, rng).clamp_min_(0.0)
        return image + grain * _clouds(count, shape, torch.ones(count, 1, 1, 1), rng)

    def _inside(self, count: int, shape: Shape, rng: torch.Generator) -> Tensor:
        """How deep each pixel lies in a random leaf, in sides; (count, 1, H, W)."""
        y, x = _centres(shape)
        small, large = self.radii
        u = _uniform(count, rng)
        radius = (u / small**2 + (1 - u) / large**2).rsqrt()
        angle, squeeze = _between(0.0, math.pi, count, rng), _between(0.3, 1.0, count, rng)
        dy, dx = y - _uniform(count, rng), x - _uniform(count, rng)
        across = (dx * angle.cos() + dy * angle.sin()).abs_()
        along = (dy * angle.cos() - dx * angle.sin()).abs_() / squeeze
        oval, box = torch.hypot(across, along), torch.maximum(across, along)
        return radius - torch.where(_uniform(count, rng) < 0.6, oval, box)


@dataclass(frozen=True)
class Levels(_Painted):
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
        _expect(0 <= self.bands <= 1 and 0 <= self.inverted <= 1, self, "shares in [0, 1]")
        _expect(self.centring >= 0, self, "centring >= 0")

    def _paint(self, count: int, shape: Shape, rng: torch.Generator) -> Tensor:
        field = _clouds(count, (1, *shape[1:]), _between(2.0, 4.0, count, rng), rng)
        y, x = _centres(shape)
        bowl = 2 * ((y - 0.5) ** 2 + (x - 0.5) ** 2) - 1 / 3  # of zero mean, deep by one
        field -= self.centring * _uniform(count, rng) * bowl
        level, softness = _between(0.0, 1.0, count, rng), _between(0.05, 0.3, count, rng)
        inside = torch.sigmoid((field - level) / softness)
        reach = _between(0.15, 0.6, count, rng)
        # Bands lie nearer the median than sets do, where a level set has its longest outline.
        band = torch.sigmoid((reach - (field - level / 2).abs_()) / (softness / 2))
        shown = torch.where(_uniform(count, rng) < self.bands, band, inside)
        shown *= _between(0.5, 1.0, count, rng)
        shown = torch.where(_uniform(count, rng) < self.inverted, 1.0 - shown, shown)
        return _two_colours(shown, shape[0], rng)


@dataclass(frozen=True)
class Scales(_Painted):
    """Soft mosaics: random grids of 1, 2, 4, ... cells, enlarged and added with random weights.

    One scale stands out on each image, as one does in textures.

    Source: hierarchical noise of DIP-KD (arXiv 2604.25794); sharper weights and contrast are ours.
    """

    sharpness: float = 3.0
    """Of the weights softmax(sharpness * N(0, 1)) over scales, >= 0; 0 weighs all alike."""
    contrast: float = 6.0
    """Most by which the range, once stretched to black and white, is stretched again; >= 1."""

    def __post_init__(self) -> None:
        _expect(self.sharpness >= 0 and self.contrast >= 1, self, "sharpness >= 0, contrast >= 1")

    def _paint(self, count: int, shape: Shape, rng: torch.Generator) -> Tensor:
        channels, *size = shape
        scales = math.ceil(math.log2(max(size))) + 1
        weight = (self.sharpness * torch.randn(scales, count, 1, 1, 1, generator=rng)).softmax(0)
        total = torch.zeros(count, *shape)
        for d in range(scales):
            grid = torch.rand(count, channels, 2**d, 2**d, generator=rng)
            total += weight[d] * F.interpolate(grid, size=size, mode="bilinear")
        dark, light = total.amin((1, 2, 3), keepdim=True), total.amax((1, 2, 3), keepdim=True)
        unit = (total - dark) / (light - dark).clamp_min_(1e-6)
        middle = _between(0.1, 0.9, count, rng)
        return (unit - middle) * _between(1.0, self.contrast, count, rng) + 0.5


@dataclass(frozen=True)
class Strokes(_Painted):
    """Strokes of a pen: a few curves, light on dark, that may join and close into loops.

    Knows that somebody writes: for teachers of handwriting, line drawings, wires and vessels.
    Cubic Bezier curves whose outer control points may leave the image, which bends them more.

    Source: ours.
    """

    curves: int = 3
    """Most on one image, >= 1."""
    radii: tuple[float, float] = (0.03, 0.12)
    """Of the pen in sides of the image, log-uniform, but never under a hair; 0 < low <= high."""
    joined: float = 0.5
    """Share of curves that begin where the last one ended, in [0, 1]."""
    closed: float = 0.15
    """Share of curves that end where they began, in [0, 1]."""

    def __post_init__(self) -> None:
        _expect(self.curves >= 1, self, "curves >= 1")
        _expect(0 < self.radii[0] <= self.radii[1], self, "0 < low <= high for radii")
        _expect(0 <= self.joined <= 1 and 0 <= self.closed <= 1, self, "shares in [0, 1]")

    def _paint(self, count: int, shape: Shape, rng: torch.Generator) -> Tensor:
        pixels = max(shape[1:])
        many = torch.randint(1, self.curves + 1, (count, 1, 1, 1), generator=rng)
        squared = torch.full((count, 1, *shape[1:]), math.inf)
        end: Tensor | None = None
        for curve in range(self.curves):
            knots = self._knots(end, count, rng)
            end = knots[3]
            near = _squared_distance(knots, shape)
            squared = torch.where(curve < many, torch.minimum(squared, near), squared)
        thin, thick = self.radii
        radius = (thin * (thick / thin) ** _uniform(count, rng)).clamp_min_(_HAIR / pixels)
        ink = ((radius - squared.sqrt_()) * pixels + 0.5).clamp_(0.0, 1.0)
        return _two_colours(ink * _between(0.5, 1.0, count, rng), shape[0], rng)

    def _knots(self, end: Tensor | None, count: int, rng: torch.Generator) -> Tensor:
        """Control points of one curve for each image, (4, 2, count, 1, 1, 1), y before x."""
        knots = torch.rand(4, 2, count, 1, 1, 1, generator=rng)
        knots[1:3] = 1.6 * knots[1:3] - 0.3
        if end is not None:
            knots[0] = torch.where(_uniform(count, rng) < self.joined, end, knots[0])
        knots[3] = torch.where(_uniform(count, rng) < self.closed, knots[0], knots[3])
        return knots


@dataclass(frozen=True)
class Noise(_Painted):
    """Snow: every value uniform and on its own. The control that must lose.

    All of it looks alike to a network, and teachers find a class or two in it.
    """

    def _paint(self, count: int, shape: Shape, rng: torch.Generator) -> Tensor:
        return torch.randint(0, 256, (count, *shape), generator=rng) / 255.0


@dataclass(frozen=True)
class Warped:
    """Another prior's images turned, zoomed, shifted and bent.

    New outlines out of old ones. Turned by up to 45 degrees, zoomed by 0.7 to 1.4, shifted by up
    to 15 % of a side, bent smoothly by about 3 % of it; mirrored where the image ends.

    Source: the nonlinear transform of DIP-KD (arXiv 2604.25794).
    """

    prior: Prior
    """Whose images are warped."""
    share: float = 0.5
    """Of the images that are, in [0, 1]; 0 leaves every byte as it was."""

    def __post_init__(self) -> None:
        _expect(0 <= self.share <= 1, self, "share in [0, 1]")

    def draw(self, count: int, shape: Shape, rng: torch.Generator) -> Tensor:
        """As `Prior.draw`."""
        images = self.prior.draw(count, shape, rng)
        for part in _chosen(count, self.share, shape, rng):
            images[part] = _bytes(_warp(images[part] / 255.0, rng))
        return images


@dataclass(frozen=True)
class CutMixed:
    """Two images of a batch in one, divided along the outline of a blob.

    Evidence for two classes on one image, which asks a teacher how it weighs them.

    Source: CutMix (Yun et al., ICCV 2019), with blobs as in DIP-KD (arXiv 2604.25794).
    """

    prior: Prior
    """Where both images come from."""
    share: float = 0.5
    """Of the images that are mixed, in [0, 1]; 0 leaves every byte as it was."""

    def __post_init__(self) -> None:
        _expect(0 <= self.share <= 1, self, "share in [0, 1]")

    def draw(self, count: int, shape: Shape, rng: torch.Generator) -> Tensor:
        """As `Prior.draw`; of a single image nothing is mixed."""
        images = self.prior.draw(count, shape, rng)
        step = int(torch.randint(1, max(2, count), (), generator=rng))
        others = images.roll(step, 0)
        for part in _chosen(count, self.share, shape, rng):
            field = _clouds(len(part), (1, *shape[1:]), torch.full((len(part), 1, 1, 1), 3.0), rng)
            blob = torch.sigmoid(8.0 * (field - _between(-0.7, 0.7, len(part), rng)))
            images[part] = _bytes(torch.lerp(images[part] / 255.0, others[part] / 255.0, blob))
        return images


PRIORS: Mapping[str, Callable[[], Prior]] = {
    "pink": Pink,
    "leaves": Leaves,
    "levels": Levels,
    "scales": Scales,
    "strokes": Strokes,
    "noise": Noise,
}
GENERAL = ("pink", "leaves", "levels", "scales")
"""Priors that presume nothing of the teachers' world."""


def prior(name: str, warp: float = 0.0, mix: float = 0.0) -> Prior:
    """The prior of that name, a share ``warp`` of it warped, then a share ``mix`` cut and mixed.

    Raises:
        SettingsError: there is none of that name, or a share outside [0, 1].
    """
    if name not in PRIORS:
        close = difflib.get_close_matches(name, list(PRIORS), 1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise SettingsError(f"unknown prior {name!r}{hint}; choose among {', '.join(PRIORS)}")
    plain = PRIORS[name]()
    warped = Warped(plain, warp) if warp else plain
    return CutMixed(warped, mix) if mix else warped


def priors(*names: str, warp: float = 0.0, mix: float = 0.0) -> dict[str, Prior]:
    """Priors by name, as the loop wants them; `GENERAL` where none is named."""
    return {name: prior(name, warp, mix) for name in names or GENERAL}


def _expect(held: bool, value: object, law: str) -> None:
    if not held:
        raise SettingsError(f"{value!r} cannot be; expected {law}")


def _per_block(shape: Shape) -> int:
    return max(1, _BLOCK // math.prod(shape))


def _chosen(count: int, share: float, shape: Shape, rng: torch.Generator) -> tuple[Tensor, ...]:
    """Indices of a random share of the images, in blocks."""
    chosen = (torch.rand(count, generator=rng) < share).nonzero().flatten()
    return torch.split(chosen, _per_block(shape)) if len(chosen) else ()


def _uniform(count: int, rng: torch.Generator, channels: int = 1) -> Tensor:
    """U(0, 1) for each image, (count, channels, 1, 1)."""
    return torch.rand(count, channels, 1, 1, generator=rng)


def _between(low: float, high: float, count: int, rng: torch.Generator) -> Tensor:
    """U(low, high) for each image, (count, 1, 1, 1)."""
    return low + (high - low) * _uniform(count, rng)


def _centres(shape: Shape) -> tuple[Tensor, Tensor]:
    """Where pixels lie in the unit square, (1, 1, H, 1) and (1, 1, 1, W)."""
    _, height, width = shape
    y, x = (torch.arange(0.5, n) / n for n in (height, width))
    return y.view(1, 1, -1, 1), x.view(1, 1, 1, -1)


def _clouds(count: int, shape: Shape, exponent: Tensor, rng: torch.Generator) -> Tensor:
    """Gaussian noise of amplitude 1/f^exponent, (count, 1, 1, 1); mean 0 and variance 1."""
    _, height, width = shape
    # In float32 the transform's last bits vary with the number of threads, and bytes with them.
    double = torch.float64
    fy = torch.fft.fftfreq(height, dtype=double)[:, None]
    fx = torch.fft.rfftfreq(width, dtype=double)
    frequency = torch.hypot(fy, fx)
    frequency[0, 0] = 1.0
    gain = frequency ** -exponent.to(double)
    gain[..., 0, 0] = 0.0
    white = torch.fft.rfft2(torch.randn(count, *shape, generator=rng).to(double))
    field: Tensor = torch.fft.irfft2(white * gain, s=(height, width))
    deviation = field.std((2, 3), correction=0, keepdim=True)
    return (field / deviation.clamp_min(1e-12)).float()


def _squared_distance(knots: Tensor, shape: Shape) -> Tensor:
    """From each pixel to a cubic Bezier curve, (4, 2, B, 1, 1, 1) -> (B, 1, H, W), in sides.

    The curve is taken as twenty straight pieces.
    """
    y, x = _centres(shape)
    squared = torch.full((1,), math.inf)
    here = knots[0]
    for t in (step / 20 for step in range(1, 21)):
        s = 1 - t
        there = s**3 * knots[0] + 3 * t * s * (s * knots[1] + t * knots[2]) + t**3 * knots[3]
        dy, dx = y - here[0], x - here[1]
        uy, ux = there - here
        length = (uy * uy + ux * ux).clamp_min_(1e-9)
        along = (dy * (uy / length) + dx * (ux / length)).clamp_(0.0, 1.0)
        squared = torch.minimum(squared, (dy - along * uy).square_() + (dx - along * ux).square_())
        here = there
    return squared


def _warp(images: Tensor, rng: torch.Generator) -> Tensor:
    """(B, C, H, W) -> (B, C, H, W), see `Warped`."""
    count, shape = len(images), (images.shape[1], images.shape[2], images.shape[3])
    y, x = (2 * side - 1 for side in _centres(shape))
    angle = _between(-math.pi / 4, math.pi / 4, count, rng)
    zoom = 0.7 * 2.0 ** _uniform(count, rng)
    shift = 0.3 * (2 * _uniform(count, rng, 2) - 1)
    turned = torch.cat([angle.cos() * x - angle.sin() * y, angle.sin() * x + angle.cos() * y], 1)
    bend = 0.06 * _clouds(count, (2, *shape[1:]), torch.full((count, 1, 1, 1), 3.0), rng)
    grid = (turned / zoom + shift + bend).permute(0, 2, 3, 1)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def _mixed_colours(fields: Tensor, rng: torch.Generator) -> Tensor:
    """Independent channels -> correlated ones of the same variance, (B, C, H, W)."""
    channels = fields.shape[1]
    if channels == 1:
        return fields
    mixing = 0.5 + 0.5 * torch.randn(len(fields), channels, channels, 1, 1, generator=rng)
    weights: Tensor = mixing / torch.linalg.vector_norm(mixing, dim=2, keepdim=True)
    return (weights * fields[:, None]).sum(2)


def _two_colours(grey: Tensor, channels: int, rng: torch.Generator) -> Tensor:
    """(B, 1, H, W) in [0, 1] -> (B, C, H, W): from a random colour, or black, to another."""
    if channels == 1:
        return grey
    light, dark = torch.rand(2, len(grey), channels, 1, 1, generator=rng)
    dark *= _uniform(len(grey), rng) < 0.5
    return torch.lerp(dark, light, grey)


def _bytes(unit: Tensor) -> Tensor:
    """[0, 1] and beyond -> uint8 in 0..255."""
    return (unit * 255.0).round_().clamp_(0, 255).to(torch.uint8)
