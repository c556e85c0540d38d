"""Generators: small networks from latents to images, or to rows of a table."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Generator(nn.Module):
    """Latent (B, Z) -> images (B, C, H, W) in [0, 1].

    A linear layer to a quarter of the size, two rounds of nearest-neighbour upsampling and
    3x3 convolution, batch norm and leaky ReLU between, sigmoid at the end. The shape used by
    CuDFKD and its relatives, scaled to the image.

    Args:
        latent: Z, > 0.
        shape: (C, H, W) with H, W >= 4.
        width: channels after the first convolution; 64 in the papers for 32x32.
    """

    def __init__(self, latent: int, shape: tuple[int, int, int], width: int = 32) -> None:
        super().__init__()
        channels, height, self_width = shape
        self.latent, self.shape = latent, shape
        # Not below 2, or batch norm could not learn from one image alone.
        self.start = (2 * width, max(2, height // 4), max(2, self_width // 4))
        self.project = nn.Linear(latent, self.start[0] * self.start[1] * self.start[2])
        self.norm0 = nn.BatchNorm2d(2 * width)
        self.conv1 = nn.Conv2d(2 * width, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """(B, Z) -> (B, C, H, W)."""
        return torch.sigmoid(self.unbounded(z))

    def unbounded(self, z: Tensor) -> Tensor:
        """(B, Z) -> (B, C, H, W), before the sigmoid."""
        half = (self.shape[1] // 2, self.shape[2] // 2)
        x = self.norm0(self.project(z).view(len(z), *self.start))
        x = F.leaky_relu(self.norm1(self.conv1(F.interpolate(x, size=half))), 0.2)
        x = F.leaky_relu(self.norm2(self.conv2(F.interpolate(x, size=self.shape[1:]))), 0.2)
        images: Tensor = self.conv3(x)
        return images


class StandardisedGenerator(Generator):
    """A `Generator` whose images have the mean and deviation of the data that a network learned.

    ``mean + deviation * batch_norm(tanh(x))``, the norm without weights, channel by channel: what
    the teacher's normalisation makes of them has mean 0 and variance 1. So they may lie somewhat
    outside [0, 1], and only a teacher in the same process can be shown them.

    Args:
        latent: Z, > 0.
        shape: (C, H, W) with H, W >= 4.
        width: channels after the first convolution.
        mean: of the data in [0, 1], one for each channel.
        deviation: likewise, > 0.

    Source: the generators of DAFL, DFAD, RDSKD and PRE-DFKD, for teachers of normalised images.
    """

    def __init__(
        self,
        latent: int,
        shape: tuple[int, int, int],
        width: int,
        mean: Sequence[float],
        deviation: Sequence[float],
    ) -> None:
        super().__init__(latent, shape, width)
        self.output_norm = nn.BatchNorm2d(shape[0], affine=False)
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation).view(-1, 1, 1), persistent=False)

    def forward(self, z: Tensor) -> Tensor:
        """(B, Z) -> (B, C, H, W)."""
        images: Tensor = self.output_norm(torch.tanh(self.unbounded(z)).float())
        return images * self.get_buffer("deviation") + self.get_buffer("mean")


class RowGenerator(nn.Module):
    """Latent (B, Z) -> rows (B, 1, 1, D) in [0, 1]: one hidden layer of tanh units, a sigmoid.

    Args:
        latent: Z, > 0.
        columns: D, > 0.
        width: hidden units; 500 in Zhou and Chiam (arXiv 2301.04338).
    """

    def __init__(self, latent: int, columns: int, width: int = 500) -> None:
        super().__init__()
        self.latent, self.shape = latent, (1, 1, columns)
        self.hidden = nn.Linear(latent, width)
        self.output = nn.Linear(width, columns)

    def forward(self, z: Tensor) -> Tensor:
        """(B, Z) -> (B, 1, 1, D) in [0, 1]."""
        rows = torch.sigmoid(self.output(torch.tanh(self.hidden(z))))
        return rows[:, None, None, :]
