"""Samples as outputs of a generator network for each class, initialised anew again and again."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fedkd.core.checkpoint_state import Part, State, gather, scatter
from fedkd.core.interfaces import Context
from fedkd.errors import SettingsError
from fedkd.synthesis.parameterisation import BaseParameterisation, Drawn, reset, seeded


@dataclass(frozen=True, eq=False)
class GeneratorPerClass:
    """The settings.

    Attributes:
        latent: Z, size of each network's input, >= 1.
        steps: before all networks are initialised anew, >= 1.
    """

    latent: int = 64
    steps: int = 20

    def __post_init__(self) -> None:
        if self.latent < 1 or self.steps < 1:
            raise SettingsError(
                f"generator for each class: latent {self.latent}, {self.steps} steps; expected "
                "both >= 1"
            )

    def build(self, context: Context) -> "ClassGenerators":
        """The target."""
        return ClassGenerators(self, context)


class ClassGenerators(BaseParameterisation):
    """K networks; that of a class draws its share of every batch.

    Args:
        settings: of it.
        context: classes, seed and device.
    """

    def __init__(self, settings: GeneratorPerClass, context: Context) -> None:
        self.settings, self.steps_per_batch = settings, settings.steps
        self.networks: nn.ModuleList = seeded(
            context.seed,
            lambda: nn.ModuleList(
                context.domain.generator(settings.latent) for _ in range(context.classes)
            ),
        )
        context.compute.place(self.networks)

    def groups(self) -> Iterable[dict[str, Any]]:
        """All weights of all networks."""
        return [{"params": list(self.networks.parameters())}]

    def begin(self, rng: torch.Generator) -> bool:
        """Layers as new, of all networks."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**31, (), generator=rng)))
            reset(self.networks)
        return True

    def draw(self, count: int, rng: torch.Generator, learning: bool) -> Drawn:
        """G_y(z), z ~ N(0, 1): every class equally often, but for a remainder, in random order."""
        self.networks.train(learning)
        with torch.set_grad_enabled(learning):
            return Drawn(*self._images(count, rng))

    def draw_unasked(self, count: int, rng: torch.Generator, training: bool) -> Tensor:
        """See `Parameterisation.draw_unasked`."""
        self.networks.train(training)
        with torch.no_grad():
            return self._images(count, rng)[0]

    def _images(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """(count, C, H, W) on the networks' device, and their classes (count,)."""
        classes = len(self.networks)
        total = max(count, classes)  # or some network would have no gradient
        start = int(torch.randint(classes, (), generator=rng))
        targets = (torch.randperm(total, generator=rng) + start) % classes
        z = torch.randn(total, self.settings.latent, generator=rng)
        z = z.to(next(self.networks.parameters()).device)
        drawn = [network(z[targets == of]) for of, network in enumerate(self.networks)]
        # Those of a class lie together; back into the order of the targets.
        order = targets.argsort(stable=True).argsort().to(z.device)
        return torch.cat(drawn)[order][:count], targets[:count]

    def state(self) -> State:
        """Weights of all networks."""
        return gather(self._parts, {})

    def restore(self, state: State) -> None:
        """Be again as when ``state`` was taken."""
        scatter(state, self._parts)

    @property
    def _parts(self) -> dict[str, Part]:
        return {"networks": self.networks}
