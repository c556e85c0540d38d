"""What images are painted by while it learns. It knows neither teachers nor losses."""

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
    """What is trained, so that images get better."""

    kind: Literal["network", "latents", "pixels"] = "network"
    """network: a `Generator`, fed with new latents each time. latents: a `Generator` and the
    latents of one batch. pixels: one batch of images. The last two begin anew every epoch."""
    jitter: float = 0.0
    """Most by which images are rolled before each question, in sides, in [0, 1]."""
    flips: bool = False
    """Whether a fair coin mirrors them, before each question."""
    conditional: bool = False
    """Of a network: whether it is told the class that each image is to show."""
    averaging: float = 0.0
    """Of a network: decay, in [0, 1), of a mean of its weights that paints once it has learned;
    0: its last weights do."""

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
        """Whether it is one batch, worked on for an epoch."""
        return self.kind != "network"

    def build(
        self, count: int, latent: int, shape: tuple[int, int, int], classes: int
    ) -> "TargetModule":
        """What is trained: for ``count`` images of ``shape``, from latents of size ``latent``.

        A network that is told one of ``classes`` finds it behind its latent, as 0 and 1.
        """
        if self.kind == "pixels":
            return Pixels(count, shape)
        generator = Generator(latent + classes * self.conditional, shape)
        return Latents(count, generator) if self.kind == "latents" else generator

    def augment(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """``images`` (B, C, H, W), rolled and mirrored as one."""
        if self.jitter:
            most = [int(self.jitter * side) for side in images.shape[2:]]
            moved = [int(torch.randint(-m, m + 1, (), generator=rng)) for m in most]
            images = images.roll(moved, (2, 3))
        if self.flips and bool(torch.rand((), generator=rng) < 0.5):
            images = images.flip(3)
        return images


class Latents(nn.Module):
    """One batch of latents and the network that paints it, trained together.

    Args:
        count: B.
        generator: begins anew with the latents.
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
        """Latents N(0, 1), and layers as new."""
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(int(torch.randint(2**31, (), generator=rng)))
            for layer in self.generator.modules():
                if isinstance(layer, nn.Linear | nn.Conv2d | nn.BatchNorm2d):
                    layer.reset_parameters()
            self.latents.copy_(torch.randn(self.latents.shape, generator=rng))


class Pixels(nn.Module):
    """One batch of images that is trained itself.

    Args:
        count: B.
        shape: (C, H, W).
    """

    def __init__(self, count: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.pixels = nn.Parameter(torch.zeros(count, *shape))

    def forward(self) -> Tensor:
        """(B, C, H, W) in [0, 1]; what a step has carried beyond is put back first."""
        with torch.no_grad():
            self.pixels.clamp_(0.0, 1.0)
        return self.pixels * 1.0

    def begin(self, rng: torch.Generator) -> None:
        """Grey, with noise from black to white."""
        with torch.no_grad():
            self.pixels.copy_(0.5 + 0.5 * torch.randn(self.pixels.shape, generator=rng))


TargetModule: TypeAlias = Generator | Latents | Pixels
"""What an optimiser trains."""
