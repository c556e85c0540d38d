"""Interface of sample parameterisations: what is optimised, and how images are drawn from it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fedkd.core.checkpoint_state import Stateful
from fedkd.core.interfaces import Spec
from fedkd.protocol import Recipe


@dataclass(frozen=True, eq=False)
class Drawn:
    """A batch of samples that a target has drawn."""

    images: Tensor
    """(B, C, H, W): uint8, or float in [0, 1], with a graph where the target learns."""
    class_targets: Tensor | None = None
    """(B,) classes or (B, K) probabilities that the images are to show; None: none."""
    recipe: Recipe | None = None
    """By which whoever has it renders the same images; None where there is none."""


class Parameterisation(Stateful, Protocol):
    """A generator network, the latents of one batch, or its pixels."""

    @property
    def steps_per_batch(self) -> int:
        """Optimisation steps on one batch, >= 1; then another begins. 1: each step draws anew."""

    def groups(self) -> Iterable[dict[str, Any]]:
        """Parameters, as an optimiser takes them."""

    def begin(self, rng: torch.Generator) -> bool:
        """Begin a batch; whether all began anew, so that an optimiser's momenta mean nothing."""

    def draw(self, count: int, rng: torch.Generator, learning: bool) -> Drawn:
        """``count`` samples; with a graph if ``learning``."""

    def draw_unasked(self, count: int, rng: torch.Generator, training: bool) -> Tensor:
        """``count`` samples (B, C, H, W) without a graph, as its network is: for its own process.

        Args:
            count: > 0.
            rng: draws latents.
            training: whether the network is in training mode.
        """

    def hear(self, target: Tensor) -> None:
        """(B, K) fused logits, answered to what was drawn last."""

    def backward(self) -> None:
        """The gradients of a step are there."""

    def stepped(self) -> None:
        """The optimiser has taken its step."""

    def finish(self) -> None:
        """A batch has had all its steps."""


class ParameterisationSpec(Spec[Parameterisation], Protocol):
    """The settings of a synthesis target."""


class BaseParameterisation:
    """Defaults of a target that draws anew at each step."""

    steps_per_batch = 1

    def begin(self, rng: torch.Generator) -> bool:
        """Nothing begins anew."""
        return False

    def hear(self, target: Tensor) -> None:
        """Nothing."""

    def backward(self) -> None:
        """Nothing."""

    def stepped(self) -> None:
        """Nothing."""

    def finish(self) -> None:
        """Nothing."""


def seeded(seed: int, make: Any) -> Any:
    """``make()`` with first weights of that seed: layers initialise from the global stream only."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def to_bytes(images: Tensor) -> Tensor:
    """Images as they are asked about: (B, C, H, W) uint8, off the graph, in ordinary memory."""
    if images.dtype == torch.uint8:
        return images.cpu()
    rounded = (images.detach() * 255.0).round_().clamp_(0, 255).to(torch.uint8)
    return rounded.to("cpu", memory_format=torch.contiguous_format)


def reset(layers: nn.Module) -> None:
    """First weights for every layer, from the global stream."""
    for layer in layers.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.BatchNorm2d):
            layer.reset_parameters()
