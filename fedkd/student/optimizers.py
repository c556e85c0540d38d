"""Optimisers of a network that is taught: AdamW, or Muon for its hidden layers.

Muon (K. Jordan et al., 2024; at the scale of language models J. Liu et al., arXiv 2502.16982) sets
the singular values of a layer's update to about 1. It is `torch.optim.Muon`, which knows matrices
alone: here a convolution's kernel is the matrix of its outputs by all that each of them reads.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from fedkd.core.checkpoint_state import State, gather, scatter
from fedkd.core.device import Compute
from fedkd.core.run_plan import Plan
from fedkd.errors import SettingsError

Group = dict[str, object]
"""Of an optimiser: its rate, under ``lr``, and more."""


class Muon:
    """Muon for the weights of hidden layers, AdamW for all others.

    Layers are the linear maps and convolutions with weights to learn, in the order of the network's
    modules. The others are weights of the first and of the last of them, biases, norms, embeddings,
    tokens and scales. Muon's steps have the size of AdamW's, so that one rate and one decay fit
    both (arXiv 2502.16982).

    Args:
        network: placed; where its weights lie must not change any more.
        weight_decay: of both, >= 0.
        fused: of AdamW.

    Raises:
        SettingsError: no layer lies between its first and its last.
    """

    def __init__(self, network: nn.Module, weight_decay: float, fused: bool | None) -> None:
        weights = [weight for weight in network.parameters() if weight.requires_grad]
        self._hidden = layer_weights(network)[1:-1]
        if not self._hidden:
            raise SettingsError(
                'student.optimizer "muon" is for layers between the first and the last, and this '
                'network has none; choose "adamw"'
            )
        self._matrices = [nn.Parameter(as_matrix(weight.detach())) for weight in self._hidden]
        hidden = {id(weight) for weight in self._hidden}
        others = [weight for weight in weights if id(weight) not in hidden]
        self._muon = torch.optim.Muon(
            self._matrices, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
        )
        self._adamw = torch.optim.AdamW(others, weight_decay=weight_decay, fused=fused)
        self._weights = weights

    @property
    def param_groups(self) -> Sequence[Group]:
        """Of both; a rate that is set there is that of the next step."""
        return [*self._muon.param_groups, *self._adamw.param_groups]

    def zero_grad(self) -> None:
        """Forget the gradients of all weights."""
        for weight in self._weights:
            weight.grad = None

    def step(self) -> None:
        """Take a step by the gradients of the network's weights."""
        for weight, matrix in zip(self._hidden, self._matrices, strict=True):
            matrix.grad = None if weight.grad is None else as_matrix(weight.grad, like=weight)
        self._muon.step()  # type: ignore[no-untyped-call]
        self._adamw.step()

    def state(self) -> State:
        """Momentum of both."""
        return gather({"muon": self._muon, "adamw": self._adamw}, {})

    def restore(self, state: State) -> None:
        """Go on as when ``state`` was taken."""
        scatter(state, {"muon": self._muon, "adamw": self._adamw})


StudentOptimizer = torch.optim.Optimizer | Muon


def layer_weights(network: nn.Module) -> list[Tensor]:
    """Weights of linear maps and convolutions that are to be learned, each once, in order."""
    layers = [each for each in network.modules() if isinstance(each, nn.Linear | _ConvNd)]
    weights = [layer.weight for layer in layers if layer.weight.requires_grad]
    return list({id(weight): weight for weight in weights}.values())


def as_matrix(weight: Tensor, like: Tensor | None = None) -> Tensor:
    """A layer's weights (O, ...) as a matrix (O, I), in the order in which they lie in memory.

    Args:
        weight: a view of it is returned, unless ``like`` lies in another order.
        like: a tensor of the same shape, whose order in memory decides; None: ``weight`` itself.
    """
    order = weight if like is None else like
    columns = weight if order.is_contiguous() else weight.movedim(1, -1)  # channels last
    return columns.reshape(len(weight), -1)


def optimizer_of(network: nn.Module, plan: Plan, compute: Compute) -> StudentOptimizer:
    """The plan's optimiser, with its decay; whoever steps it sets the rate.

    Raises:
        SettingsError: the network has no layer for it.
    """
    if plan.optimizer == "muon":
        return Muon(network, plan.weight_decay, compute.fused)
    return torch.optim.AdamW(
        network.parameters(), lr=1.0, weight_decay=plan.weight_decay, fused=compute.fused
    )
