"""Evaluate many teachers of one architecture in a batch: loop, vmap, grouped convolutions.

Institutions are asked one by one: on a CPU no method for arbitrary networks is faster, see "Many
institutions" in ``docs/performance.md``. This module measures it, also on other machines.
"""

import copy
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional as F

from fedkd.models import Network, build_network

Shape = tuple[int, int, int]
BatchedQuery = Callable[[Tensor], Tensor]
"""(B, C, H, W) in [0, 1] -> (T, B, K)."""


def build_teachers(model: str, shape: Shape, count: int) -> list[Network]:
    """Networks in evaluation mode, laid out as a `fedkd.models.teacher.ModuleTeacher` has them."""
    made = (build_network(model, 10, shape, seed) for seed in range(count))
    layout = torch.channels_last
    return [
        each.eval().requires_grad_(False).to(memory_format=layout)  # type: ignore[call-overload]
        for each in made
    ]


def one_by_one(networks: Sequence[nn.Module]) -> BatchedQuery:
    """One teacher after another, as institutions are asked."""

    def ask(images: Tensor) -> Tensor:
        x = images.contiguous(memory_format=torch.channels_last)
        return torch.stack([network(x) for network in networks])

    return torch.no_grad()(ask)


def vmapped(networks: Sequence[nn.Module], at_once: int) -> BatchedQuery:
    """Stacked weights, ``at_once`` teachers at a time; torch makes grouped convolutions."""
    network = copy.deepcopy(networks[0])
    stacks = [
        stack_module_state(list(networks[start : start + at_once]))
        for start in range(0, len(networks), at_once)
    ]

    def ask(images: Tensor) -> Tensor:
        def say(*state: dict[str, Tensor]) -> Tensor:
            logits: Tensor = functional_call(network, state, (images,))
            return logits

        with warnings.catch_warnings():  # pooling over all places has no batching rule
            warnings.simplefilter("ignore", UserWarning)
            return torch.cat([vmap(say)(*stack) for stack in stacks])

    return torch.no_grad()(ask)


def grouped(networks: Sequence[Network], at_once: int) -> BatchedQuery:
    """The ``cnn`` by hand: grouped convolutions, with batch norm folded into the weights."""
    stacks = [
        _Grouped(networks[start : start + at_once]) for start in range(0, len(networks), at_once)
    ]

    def ask(images: Tensor) -> Tensor:
        return torch.cat([stack(images) for stack in stacks])

    return torch.no_grad()(ask)


class _Grouped:
    def __init__(self, networks: Sequence[Network]) -> None:
        self._teachers = len(networks)
        columns = zip(*(_folded(network) for network in networks), strict=True)
        self._layers = [
            (torch.cat([w for w, _ in each]), torch.cat([b for _, b in each])) for each in columns
        ]
        self._heads = torch.stack([network.head.weight.T for network in networks])
        self._biases = torch.stack([network.head.bias[None] for network in networks])

    def __call__(self, images: Tensor) -> Tensor:
        x = (images - 0.5) / 0.5
        for place, (weight, bias) in enumerate(self._layers):
            groups = self._teachers if place else 1  # the first layer reads the same images
            x = F.conv2d(x, weight, bias, padding=1, groups=groups).relu_()
            if place == 1 or (place == 0 and min(images.shape[2:]) >= 16):
                x = F.max_pool2d(x, 2)
        features = x.mean((2, 3)).view(len(images), self._teachers, -1).transpose(0, 1)
        return torch.baddbmm(self._biases, features, self._heads)


def _folded(network: Network) -> list[tuple[Tensor, Tensor]]:
    """Weight and bias of each convolution with the batch norm after it."""
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    fused = (
        nn.utils.fusion.fuse_conv_bn_eval(convolution, norm)
        for convolution, norm in zip(convolutions, norms, strict=True)
    )
    return [(each.weight, each.bias) for each in fused if each.bias is not None]
