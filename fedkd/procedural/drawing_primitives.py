"""Drawing primitives of procedural priors: random fields, curves, placement, colours, uint8.

B images, C channels, H by W pixels; a field is float32.
"""

import math
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

Shape: TypeAlias = tuple[int, int, int]
"""(C, H, W) of one image."""


def uniform(count: int, rng: torch.Generator, channels: int = 1) -> Tensor:
    """U(0, 1) for each image, (count, channels, 1, 1)."""
    return torch.rand(count, channels, 1, 1, generator=rng)


def uniform_between(low: float, high: float, count: int, rng: torch.Generator) -> Tensor:
    """U(low, high) for each image, (count, 1, 1, 1)."""
    return low + (high - low) * uniform(count, rng)


def pixel_centres(shape: Shape) -> tuple[Tensor, Tensor]:
    """Centres of pixels in the unit square, (1, 1, H, 1) and (1, 1, 1, W)."""
    _, height, width = shape
    y, x = (torch.arange(0.5, n) / n for n in (height, width))
    return y.view(1, 1, -1, 1), x.view(1, 1, 1, -1)


def power_law_noise(count: int, shape: Shape, exponent: Tensor, rng: torch.Generator) -> Tensor:
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


def squared_distance_to_curve(knots: Tensor, shape: Shape) -> Tensor:
    """Squared distance of each pixel to a cubic Bezier curve, in sides of the image.

    (4, 2, B, 1, 1, 1) control points -> (B, 1, H, W). The curve is approximated by twenty straight
    segments.
    """
    y, x = pixel_centres(shape)
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


def random_placement(
    count: int, shape: Shape, radii: tuple[float, float], rng: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A random position, angle, radius and aspect ratio for each image; radii of density ~ r^-3.

    Returns:
        The radius in sides of the image; the distance of each pixel across and along its axis,
        (count, 1, H, W); and the aspect ratio, in [0.3, 1].
    """
    y, x = pixel_centres(shape)
    small, large = radii
    u = uniform(count, rng)
    radius = (u / small**2 + (1 - u) / large**2).rsqrt()
    angle, squeeze = (
        uniform_between(0.0, math.pi, count, rng),
        uniform_between(0.3, 1.0, count, rng),
    )
    dy, dx = y - uniform(count, rng), x - uniform(count, rng)
    across = (dx * angle.cos() + dy * angle.sin()).abs_()
    along = (dy * angle.cos() - dx * angle.sin()).abs_()
    return radius, across, along, squeeze


def warped(images: Tensor, rng: torch.Generator) -> Tensor:
    """Images under a random affine map and a smooth random displacement, see `Warped`.

    (B, C, H, W) -> (B, C, H, W).
    """
    count, shape = len(images), (images.shape[1], images.shape[2], images.shape[3])
    y, x = (2 * side - 1 for side in pixel_centres(shape))
    angle = uniform_between(-math.pi / 4, math.pi / 4, count, rng)
    zoom = 0.7 * 2.0 ** uniform(count, rng)
    shift = 0.3 * (2 * uniform(count, rng, 2) - 1)
    turned = torch.cat([angle.cos() * x - angle.sin() * y, angle.sin() * x + angle.cos() * y], 1)
    bend = 0.06 * power_law_noise(count, (2, *shape[1:]), torch.full((count, 1, 1, 1), 3.0), rng)
    grid = (turned / zoom + shift + bend).permute(0, 2, 3, 1)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def blob_masks(count: int, shape: Shape, rng: torch.Generator) -> Tensor:
    """Masks of smooth blobs for CutMix, (count, 1, H, W) in [0, 1]; they cover any share."""
    field = power_law_noise(count, (1, *shape[1:]), torch.full((count, 1, 1, 1), 3.0), rng)
    return torch.sigmoid(8.0 * (field - uniform_between(-0.7, 0.7, count, rng)))


def correlated_channels(fields: Tensor, rng: torch.Generator) -> Tensor:
    """Independent channels -> correlated ones of the same variance, (B, C, H, W)."""
    channels = fields.shape[1]
    if channels == 1:
        return fields
    mixing = 0.5 + 0.5 * torch.randn(len(fields), channels, channels, 1, 1, generator=rng)
    weights: Tensor = mixing / torch.linalg.vector_norm(mixing, dim=2, keepdim=True)
    return (weights * fields[:, None]).sum(2)


def colourised(grey: Tensor, channels: int, rng: torch.Generator) -> Tensor:
    """(B, 1, H, W) in [0, 1] -> (B, C, H, W), blends of a random colour, or black, and another."""
    if channels == 1:
        return grey
    light, dark = torch.rand(2, len(grey), channels, 1, 1, generator=rng)
    dark *= uniform(len(grey), rng) < 0.5
    return torch.lerp(dark, light, grey)


def to_uint8(unit: Tensor) -> Tensor:
    """Floats, clamped to [0, 1] -> uint8 in 0..255."""
    return (unit * 255.0).round_().clamp_(0, 255).to(torch.uint8)
