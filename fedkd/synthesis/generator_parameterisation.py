"""Samples as outputs of a generator network, from new random latents at each step."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fedkd.core.checkpoint_state import Part, State, gather, scatter
from fedkd.core.interfaces import Context
from fedkd.errors import SettingsError
from fedkd.models import Generator
from fedkd.procedural import SEED_LIMIT, frozen_generator, render
from fedkd.protocol import FrozenGenerator, Recipe
from fedkd.synthesis.parameterisation import BaseParameterisation, Drawn, seeded


@dataclass(frozen=True, eq=False)
class GeneratorNetwork:
    """The settings.

    Attributes:
        latent: Z, size of the network's input, >= 1.
        class_conditional: whether it is told the class that each image is to show.
        averaging: decay, in [0, 1), of a mean of its weights that draws in its place once it has
            learned enough; 0: its last weights do.
        averaging_from: step before which that mean is the weights themselves, >= 0.
    """

    latent: int = 64
    class_conditional: bool = False
    averaging: float = 0.0
    averaging_from: int = 0

    def __post_init__(self) -> None:
        if self.latent < 1 or not 0 <= self.averaging < 1 or self.averaging_from < 0:
            raise SettingsError(
                f"generator network: latent {self.latent}, averaging {self.averaging} from step "
                f"{self.averaging_from}; expected >= 1, in [0, 1), and from step 0 or later"
            )

    def build(self, context: Context) -> "GeneratorParameterisation":
        """The target."""
        return GeneratorParameterisation(self, context)


class GeneratorParameterisation(BaseParameterisation):
    """A network in training.

    One that learns no more, and has neither classes nor an average, draws in float64 from weights
    in float16: as whoever has its recipe.

    Args:
        settings: of it.
        context: shape, classes, seed and device.
    """

    def __init__(self, settings: GeneratorNetwork, context: Context) -> None:
        self.shape, self.classes = context.shape, context.classes * settings.class_conditional
        size = settings.latent + self.classes
        self.latent = size
        self.network: nn.Module = seeded(context.seed, lambda: context.domain.generator(size))
        context.compute.place(self.network)
        self.average: AveragedModel | None = None
        self._average_from, self._steps = settings.averaging_from, 0
        if settings.averaging:
            decay = get_ema_multi_avg_fn(settings.averaging)  # type: ignore[no-untyped-call]
            self.average = AveragedModel(self.network, multi_avg_fn=decay, use_buffers=True)

    def groups(self) -> Iterable[dict[str, Any]]:
        """All its weights."""
        return [{"params": list(self.network.parameters())}]

    def draw(self, count: int, rng: torch.Generator, learning: bool) -> Drawn:
        """G(z), z ~ N(0, 1), and where it is told classes, those are drawn all alike."""
        painter: nn.Module = self.network
        if not learning and self.average is not None:
            painter = self.average
        elif not (learning or self.classes) and (source := self._recipe_source):
            recipe = Recipe(source, int(torch.randint(SEED_LIMIT, (), generator=rng)), count)
            return Drawn(render(recipe, self.shape), recipe=recipe)
        painter.train(learning)
        z, targets = self._latents(count, rng)
        with torch.set_grad_enabled(learning):
            return Drawn(painter(z), targets)

    def draw_unasked(self, count: int, rng: torch.Generator, training: bool) -> Tensor:
        """See `Parameterisation.draw_unasked`."""
        self.network.train(training)
        with torch.no_grad():
            images: Tensor = self.network(self._latents(count, rng)[0])
        return images

    def _latents(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """(count, Z) on the network's device, and the classes (count,) that they tell of."""
        z, targets = torch.randn(count, self.latent - self.classes, generator=rng), None
        if self.classes:
            targets = torch.randint(self.classes, (count,), generator=rng)
            z = torch.cat([z, F.one_hot(targets, self.classes)], 1)
        return z.to(next(self.network.parameters()).device), targets

    @property
    def _recipe_source(self) -> FrozenGenerator | None:
        """Its weights, where a recipe can name such a network; of rows there is none."""
        return frozen_generator(self.network) if isinstance(self.network, Generator) else None

    def stepped(self) -> None:
        """Its average follows."""
        if self.average is None:
            return
        self._steps += 1
        if self._steps <= self._average_from:  # a mean that has seen nothing copies
            self.average.n_averaged.zero_()
        self.average.update_parameters(self.network)

    def state(self) -> State:
        """Weights, and their mean."""
        return gather(self._parts, {"steps": self._steps})

    def restore(self, state: State) -> None:
        """Be again as when ``state`` was taken."""
        self._steps = scatter(state, self._parts).get("steps", 0)

    @property
    def _parts(self) -> dict[str, Part]:
        parts: dict[str, Part] = {"network": self.network}
        return parts | ({} if self.average is None else {"average": self.average})
