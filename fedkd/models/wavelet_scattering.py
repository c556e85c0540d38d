"""Wavelet scattering transform of two layers: image features with fixed filters.

Its filters are formulas, so that it discloses nothing about anybody's images, and only a linear
layer on top has to be trained with privacy (Tramer and Boneh, ICLR 2021).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ANGLES = 8
"""Directions of the wavelets, over half a turn."""
CHANNELS = 1 + 2 * ANGLES + ANGLES * ANGLES
"""Feature maps for each channel of the image."""
RADIUS = 4
"""Pixels from the centre of a filter to its edge."""
WIDTH, ASPECT_RATIO, FREQUENCY = 0.8, 0.5, 0.75 * math.pi
"""Of a Morlet wavelet: its width in pixels, width over length, and radians per pixel."""
EPSILON = 1e-6
"""Added under the square root of a modulus, whose gradient is infinite at 0."""


class Scattering(nn.Module):
    """Wavelets, modulus, blur; once more on the moduli of the fine scale.

    There are two scales, and the second is the first on an image of half the size. Each map is
    normalised with its neighbours within an image, so no statistics of a data set are needed.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        # Formulas need no place in a file of weights.
        self.register_buffer("wavelets", morlets(), persistent=False)
        self.register_buffer("blur", binomial(), persistent=False)
        self.norm = nn.GroupNorm(27 * channels, CHANNELS * channels, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 81 C, H // 4, W // 4)."""
        count, channels, height, width = x.shape
        fine = x.reshape(count * channels, 1, height, width)
        edges = self._modulus(fine)
        coarse = self._halved(fine)
        maps = torch.cat([coarse, self._modulus(coarse), self._halved(edges)], 1)
        pairs = self._modulus(self._halved(edges))
        low = self._halved(torch.cat([maps, pairs], 1))
        normal: Tensor = self.norm(low.reshape(count, channels * CHANNELS, *low.shape[2:]))
        return normal

    def _modulus(self, maps: Tensor) -> Tensor:
        """(M, P, H, W) -> (M, 8 P, H, W): how much of each direction is at each place."""
        count, planes, height, width = maps.shape
        single = F.pad(maps.reshape(-1, 1, height, width), (RADIUS,) * 4, mode="replicate")
        even, odd = F.conv2d(single, self.get_buffer("wavelets")).chunk(2, 1)
        modulus = (even.square() + odd.square() + EPSILON).sqrt()
        return modulus.reshape(count, planes * ANGLES, height, width)

    def _halved(self, maps: Tensor) -> Tensor:
        """(M, P, H, W) -> (M, P, H // 2, W // 2)."""
        count, planes, height, width = maps.shape
        single = F.pad(maps.reshape(-1, 1, height, width), (2,) * 4, mode="replicate")
        blurred = F.conv2d(single, self.get_buffer("blur"), stride=2)
        return blurred.reshape(count, planes, *blurred.shape[2:])[..., : height // 2, : width // 2]


def morlets() -> Tensor:
    """Even parts of eight wavelets, then their odd parts, (16, 1, 9, 9); each sums to 0."""
    line = torch.arange(-RADIUS, RADIUS + 1, dtype=torch.float64)
    y, x = torch.meshgrid(line, line, indexing="ij")
    angle = (torch.arange(ANGLES, dtype=torch.float64) * (math.pi / ANGLES)).view(-1, 1, 1)
    along = x * angle.cos() + y * angle.sin()
    across = y * angle.cos() - x * angle.sin()
    window = torch.exp(-(along**2 + (ASPECT_RATIO * across) ** 2) / (2 * WIDTH**2))
    window /= window.sum((1, 2), keepdim=True)
    even, odd = window * (FREQUENCY * along).cos(), window * (FREQUENCY * along).sin()
    even -= window * even.sum((1, 2), keepdim=True)
    return torch.cat([even, odd])[:, None].float()


def binomial() -> Tensor:
    """A blur of 5 x 5 pixels that sums to 1, (1, 1, 5, 5)."""
    line = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    return torch.outer(line, line)[None, None]
