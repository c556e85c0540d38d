"""Model inversion: samples are the pixels, or the latents, of a batch that is trained for steps.

Every image has a class target; a batch begins anew after its steps.
"""

import math
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fedkd.core.augmentation import jittered
from fedkd.core.checkpoint_state import Part, State, gather, scatter
from fedkd.core.interfaces import Context
from fedkd.errors import SettingsError
from fedkd.synthesis.parameterisation import BaseParameterisation, Drawn, reset, seeded


@dataclass(frozen=True, eq=False)
class PixelBatch:
    """Settings of pixels that are trained themselves.

    Attributes:
        steps: on one batch, >= 1.
        jitter: most by which images are rolled before each question, in sides, in [0, 1].
        flips: whether a fair coin mirrors them, before each question.
        mean: of the pixels with which a batch begins.
        deviation: of these, >= 0; by default from black to white.
    """

    steps: int = 1
    jitter: float = 0.0
    flips: bool = False
    mean: float = field(default=0.5, kw_only=True)
    deviation: float = field(default=0.5, kw_only=True)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and 0 <= self.deviation < math.inf):
            raise SettingsError(
                f"model inversion: first pixels of mean {self.mean}, deviation {self.deviation}; "
                "expected finite numbers, the second >= 0"
            )
        if self.steps < 1 or not 0 <= self.jitter <= 1:
            raise SettingsError(
                f"model inversion: {self.steps} steps per batch, jitter {self.jitter}; expected "
                ">= 1 and in [0, 1]"
            )

    def build(self, context: Context) -> "InvertedBatch":
        """The target."""
        return InvertedPixels(self, context)


@dataclass(frozen=True, eq=False)
class LatentBatch(PixelBatch):
    """Settings of latents and the network that they feed, which is trained.

    Attributes:
        latent: Z, >= 1.
        latents_learn: whether the latents are trained together with the network.
    """

    latent: int = 256
    latents_learn: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.latent < 1:
            raise SettingsError(f"model inversion: latent {self.latent}; expected >= 1")

    def build(self, context: Context) -> "InvertedBatch":
        """The target."""
        return InvertedLatents(self, context)


class InvertedBatch(BaseParameterisation):
    """One batch, drawn again and again while it learns to show its class targets.

    Args:
        settings: steps and augmentation.
        context: batch, classes.
    """

    module: nn.Module
    """What is trained."""

    def __init__(self, settings: PixelBatch, context: Context) -> None:
        self.settings, self.classes = settings, context.classes
        self.steps_per_batch = settings.steps
        self.class_targets = torch.zeros(context.plan.batch, dtype=torch.long)

    def groups(self) -> Iterable[dict[str, Any]]:
        """All that is trained."""
        return [{"params": [weight for weight in self.module.parameters() if weight.requires_grad]}]

    def begin(self, rng: torch.Generator) -> bool:
        """Another batch: every class equally often, but for a remainder, in random order."""
        self.restart(rng)
        order = torch.randperm(len(self.class_targets), generator=rng)
        start = int(torch.randint(self.classes, (), generator=rng))
        self.class_targets = (order + start) % self.classes
        return True

    @abstractmethod
    def restart(self, rng: torch.Generator) -> None:
        """First values for what is trained."""

    def draw(self, count: int, rng: torch.Generator, learning: bool) -> Drawn:
        """The first ``count`` of the batch."""
        self.module.train()
        with torch.set_grad_enabled(learning):
            images = self.module()[:count]
            images = jittered(images, self.settings.jitter, self.settings.flips, rng)
        return Drawn(images, self.class_targets[:count])

    def draw_unasked(self, count: int, rng: torch.Generator, training: bool) -> Tensor:
        """The first ``count`` of the batch as they are, neither rolled nor mirrored."""
        self.module.train(training)
        with torch.no_grad():
            images: Tensor = self.module()
        return images[:count]

    def state(self) -> State:
        """What is trained, and what it is to show."""
        state = gather(self.parts, {})
        targets = self.class_targets.clone()
        return State({**state.tensors, "class_targets": targets}, state.numbers)

    def restore(self, state: State) -> None:
        """Be again as when ``state`` was taken."""
        scatter(state, self.parts)
        self.class_targets = state.tensors["class_targets"].clone()

    @property
    def parts(self) -> dict[str, Part]:
        """By the name that each has in a state."""
        return {"module": self.module}


class InvertedPixels(InvertedBatch):
    """Pixels that are trained themselves."""

    module: "Pixels"

    def __init__(self, settings: PixelBatch, context: Context) -> None:
        super().__init__(settings, context)
        self.module = Pixels(context.plan.batch, context.shape)
        context.compute.place(self.module)

    def restart(self, rng: torch.Generator) -> None:
        """Normal noise, of the mean and deviation that the settings give."""
        self.module.restart(rng, self.settings.deviation, self.settings.mean)


class InvertedLatents(InvertedBatch):
    """Latents, trained together with their network."""

    module: "Latents"

    def __init__(self, settings: LatentBatch, context: Context) -> None:
        super().__init__(settings, context)
        self.module = seeded(
            context.seed,
            lambda: Latents(
                context.plan.batch, context.domain.generator(settings.latent), settings.latent
            ),
        )
        self.module.latents.requires_grad_(settings.latents_learn)
        context.compute.place(self.module)

    def restart(self, rng: torch.Generator) -> None:
        """Latents N(0, 1), and layers as new."""
        self.module.restart(rng)


class Latents(nn.Module):
    """The latents of one batch and the network that they feed.

    Args:
        count: B.
        generator: (B, Z) -> images, begins anew with the latents.
        latent: Z.
    """

    def __init__(self, count: int, generator: nn.Module, latent: int) -> None:
        super().__init__()
        self.generator = generator
        self.latents = nn.Parameter(torch.zeros(count, latent))

    def forward(self) -> Tensor:
        """(B, C, H, W) in [0, 1]."""
        images: Tensor = self.generator(self.latents)
        return images

    def restart(self, rng: torch.Generator) -> None:
        """Latents N(0, 1), and layers as new."""
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(int(torch.randint(2**31, (), generator=rng)))
            reset(self.generator)
            self.latents.copy_(torch.randn(self.latents.shape, generator=rng))


class Pixels(nn.Module):
    """The pixels of one batch.

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

    def restart(self, rng: torch.Generator, deviation: float = 0.5, mean: float = 0.5) -> None:
        """Normal noise: by default grey, from black to white."""
        with torch.no_grad():
            self.pixels.copy_(mean + deviation * torch.randn(self.pixels.shape, generator=rng))
