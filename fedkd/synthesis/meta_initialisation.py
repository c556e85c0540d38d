"""Where the generator of every batch begins: what batches have in common. Knows no teacher."""

import copy

import torch
from torch import nn

from fedkd.core.state import State, gather, scatter
from fedkd.methods.mechanisms import Reuse
from fedkd.models import Generator


class Common:
    """A generator that paints no image of its own, and learns how well each batch went on from it.

    Args:
        reuse: how it learns.
        network: what paints, batch after batch; its weights are the first common ones.
        betas: momenta of its Adam.

    Source: Fast-DFKD (Fang et al., AAAI 2022), after MAML (Finn et al., ICML 2017) and Reptile
    (Nichol et al., 2018).
    """

    def __init__(self, reuse: Reuse, network: Generator, betas: tuple[float, float]) -> None:
        self.reuse, self.painting, self.network = reuse, network, copy.deepcopy(network)
        self.optimizer = torch.optim.Adam(self.network.parameters(), reuse.rate, betas)
        self._slopes = nn.ParameterList(torch.zeros_like(p) for p in network.parameters())
        self._slopes.requires_grad_(False)

    def begin(self) -> None:
        """Another batch: what paints begins where batches begin."""
        self.painting.load_state_dict(self.network.state_dict())

    def note(self) -> None:
        """What paints takes a step along the gradients that it holds."""
        for slope, weight in zip(self._slopes, self.painting.parameters(), strict=True):
            if weight.grad is not None:
                slope += weight.grad

    def learn(self) -> None:
        """A batch has ended: one step towards where the next ones should begin."""
        reptile = self.reuse.reptile
        ends = zip(self._slopes, self.painting.parameters(), strict=True)
        for weight, (slope, end) in zip(self.network.parameters(), ends, strict=True):
            away = slope if reptile is None else reptile * (weight - end)
            weight.grad = away.detach().clone()
            slope.zero_()
        self.optimizer.step()

    def state(self) -> State:
        """The network, its momenta, and the batch under way."""
        return gather(self._parts, {})

    def restore(self, state: State) -> None:
        """Be again as when ``state`` was taken; what paints is set back by whoever has it."""
        scatter(state, self._parts)

    @property
    def _parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        return {"network": self.network, "optimizer": self.optimizer, "slopes": self._slopes}
