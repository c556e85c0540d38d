"""Meta-learned initialisation: where the generator of every inverted batch begins.

Source: Fast-DFKD (Fang et al., AAAI 2022), after MAML (Finn et al., ICML 2017) and Reptile (Nichol
et al., 2018).
"""

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fedkd.core.checkpoint_state import Part, State, gather, scatter
from fedkd.core.interfaces import Context
from fedkd.errors import SettingsError
from fedkd.synthesis.pixel_and_latent_parameterisation import (
    InvertedBatch,
    InvertedLatents,
    LatentBatch,
)


@dataclass(frozen=True, eq=False)
class MetaLatentBatch(LatentBatch):
    """Settings of an inverted batch whose network begins where a meta-generator stands.

    Attributes:
        meta_rate: of the meta-generator's Adam, one step of which is taken after each batch, > 0.
        latent_rate: of a batch's latents, > 0; the network's is the source's.
        betas: momenta of the meta-generator's Adam.
        reptile: go towards where a batch has ended by so many times the way there; None: follow
            the sum of its gradients, which is first-order MAML.
    """

    meta_rate: float = 1e-3
    latent_rate: float = 1e-2
    betas: tuple[float, float] = (0.9, 0.999)
    reptile: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        rates = (self.meta_rate, self.latent_rate, 1.0 if self.reptile is None else self.reptile)
        if not all(0 < rate < math.inf for rate in rates):
            raise SettingsError(f"meta initialisation: rates {rates}; expected numbers > 0")

    def build(self, context: Context) -> InvertedBatch:
        """The target."""
        return MetaInvertedLatents(self, context)


class MetaInvertedLatents(InvertedLatents):
    """Latents and a network that begins where the meta-generator stands."""

    def __init__(self, settings: MetaLatentBatch, context: Context) -> None:
        super().__init__(settings, context)
        self.meta = MetaGenerator(settings, self.module.generator)
        self._latent_rate = settings.latent_rate

    def groups(self) -> Iterable[dict[str, Any]]:
        """The network, and latents with a rate of their own."""
        return [
            {"params": list(self.module.generator.parameters())},
            {"params": [self.module.latents], "lr": self._latent_rate},
        ]

    def begin(self, rng: torch.Generator) -> bool:
        """Another batch, from the meta-generator's weights."""
        anew = super().begin(rng)
        self.meta.begin()
        return anew

    def backward(self) -> None:
        """The meta-generator takes note of the gradients."""
        self.meta.note()

    def finish(self) -> None:
        """The meta-generator learns."""
        self.meta.learn()

    @property
    def parts(self) -> dict[str, Part]:
        """With the meta-generator."""
        return {**super().parts, "meta": self.meta}


class MetaGenerator:
    """A generator that draws no image itself, and learns how well each batch went on from it.

    Args:
        settings: how it learns.
        network: what draws, batch after batch; its weights are the first ones.
    """

    def __init__(self, settings: MetaLatentBatch, network: nn.Module) -> None:
        self.settings, self.drawing, self.network = settings, network, copy.deepcopy(network)
        weights = self.network.parameters()
        self.optimizer = torch.optim.Adam(weights, settings.meta_rate, settings.betas)
        self._slopes = nn.ParameterList(torch.zeros_like(p) for p in network.parameters())
        self._slopes.requires_grad_(False)

    def begin(self) -> None:
        """Another batch: what draws begins where batches begin."""
        self.drawing.load_state_dict(self.network.state_dict())

    def note(self) -> None:
        """What draws takes a step along the gradients that it holds."""
        for slope, weight in zip(self._slopes, self.drawing.parameters(), strict=True):
            if weight.grad is not None:
                slope += weight.grad

    def learn(self) -> None:
        """A batch has ended: one step towards where the next ones should begin."""
        reptile = self.settings.reptile
        ends = zip(self._slopes, self.drawing.parameters(), strict=True)
        for weight, (slope, end) in zip(self.network.parameters(), ends, strict=True):
            away = slope if reptile is None else reptile * (weight - end)
            weight.grad = away.detach().clone()
            slope.zero_()
        self.optimizer.step()

    def state(self) -> State:
        """The network, its momenta, and the batch under way."""
        return gather(self._parts, {})

    def restore(self, state: State) -> None:
        """Be again as when ``state`` was taken; what draws is set back by whoever has it."""
        scatter(state, self._parts)

    @property
    def _parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        return {"network": self.network, "optimizer": self.optimizer, "slopes": self._slopes}
