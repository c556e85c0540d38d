"""Image generator, and the three targets of synthesis: generator, latents or pixels."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedkd.errors import SettingsError


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
        half = (self.shape[1] // 2, self.shape[2] // 2)
        x = self.norm0(self.project(z).view(len(z), *self.start))
        x = F.leaky_relu(self.norm1(self.conv1(F.interpolate(x, size=half))), 0.2)
        x = F.leaky_relu(self.norm2(self.conv2(F.interpolate(x, size=self.shape[1:]))), 0.2)
        return torch.sigmoid(self.conv3(x))


@dataclass(frozen=True)
class SynthesisTarget:
    """Which parameters synthesis optimises, and how images are augmented before each query."""

    kind: Literal["network", "latents", "pixels"] = "network"
    """network: a `Generator`, with new latents each time. latents: a `Generator` and the latents of
    one batch. pixels: one batch of images. The last two are initialised again every epoch."""
    jitter: float = 0.0
    """Largest cyclic shift of images before each query, as a share of a side, in [0, 1]."""
    flips: bool = False
    """Whether images are mirrored with probability 1/2 before each query."""
    conditional: bool = False
    """Of a network: whether it is conditioned on the class that each image is to show."""
    averaging: float = 0.0
    """Of a network: decay, in [0, 1), of the moving average of its weights that renders images
    once it is trained; 0: its last weights do."""

    def __post_init__(self) -> None:
        if self.kind not in ("network", "latents", "pixels") or not 0 <= self.jitter <= 1:
            raise SettingsError(
                f"{self!r} cannot be; expected network, latents or pixels and jitter in [0, 1]"
            )
        if not 0 <= self.averaging < 1 or (self.per_batch and (self.conditional or self.averaging)):
            raise SettingsError(
                f"{self!r} cannot be; expected averaging in [0, 1), and a network for that or wants"
            )

    @property
    def per_batch(self) -> bool:
        """Whether one batch is optimised for an epoch."""
        return self.kind != "network"

    def build(
        self, count: int, latent: int, shape: tuple[int, int, int], classes: int
    ) -> "TargetModule":
        """The module to optimise: ``count`` images of ``shape``, from latents of size ``latent``.

        A conditional network finds one of ``classes`` behind its latent, one-hot.
        """
        if self.kind == "pixels":
            return Pixels(count, shape)
        generator = Generator(latent + classes * self.conditional, shape)
        return Latents(count, generator) if self.kind == "latents" else generator

    def augment(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """``images`` (B, C, H, W), all shifted and mirrored in the same way."""
        if self.jitter:
            largest = [int(self.jitter * side) for side in images.shape[2:]]
            shifts = [int(torch.randint(-m, m + 1, (), generator=rng)) for m in largest]
            images = images.roll(shifts, (2, 3))
        if self.flips and bool(torch.rand((), generator=rng) < 0.5):
            images = images.flip(3)
        return images


class Latents(nn.Module):
    """One batch of latents and the generator that renders it, trained together.

    Args:
        count: B.
        generator: initialised together with the latents.
    """

    def __init__(self, count: int, generator: Generator) -> None:
        super().__init__()
        self.generator = generator
        self.latents = nn.Parameter(torch.zeros(count, generator.latent))

    def forward(self) -> Tensor:
        """(B, C, H, W) in [0, 1]."""
        images: Tensor = self.generator(self.latents)
        return images

    def begin(self, rng: torch.Generator) -> None:
        """Initialise: latents from N(0, 1), layers with fresh weights."""
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(int(torch.randint(2**31, (), generator=rng)))
            for layer in self.generator.modules():
                if isinstance(layer, nn.Linear | nn.Conv2d | nn.BatchNorm2d):
                    layer.reset_parameters()
            self.latents.copy_(torch.randn(self.latents.shape, generator=rng))


class Pixels(nn.Module):
    """One batch of images that is optimised directly.

    Args:
        count: B.
        shape: (C, H, W).
    """

    def __init__(self, count: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.pixels = nn.Parameter(torch.zeros(count, *shape))

    def forward(self) -> Tensor:
        """(B, C, H, W) in [0, 1]; parameters that a step has moved outside are clamped first."""
        with torch.no_grad():
            self.pixels.clamp_(0.0, 1.0)
        return self.pixels * 1.0

    def begin(self, rng: torch.Generator) -> None:
        """Initialise: grey with Gaussian noise."""
        with torch.no_grad():
            self.pixels.copy_(0.5 + 0.5 * torch.randn(self.pixels.shape, generator=rng))


TargetModule: TypeAlias = Generator | Latents | Pixels
"""Modules whose parameters synthesis optimises."""
