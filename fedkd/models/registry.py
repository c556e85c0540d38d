"""Registry of network architectures: build one by name, or a copy with fresh weights."""

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fedkd.core.plugins import Factory, called, find_factory, known_names
from fedkd.errors import SettingsError
from fedkd.models.architectures import (
    Network,
    Shape,
    cnn,
    group_norm,
    lenet5,
    lenet5_half,
    mlp,
    resnet,
    resnet9,
    scattering,
    wrn16_1,
)
from fedkd.models.library_networks import LIBRARIES

GROUP = "fedkd.models"
"""The entry-point group in which packages offer factories of networks."""
WIDTHS: Mapping[str, tuple[int, Callable[[int], Callable[[int, Shape], Network]]]] = {
    "cnn": (16, partial(cnn, norm=nn.BatchNorm2d)),
    "cnn-wide": (32, partial(cnn, norm=nn.BatchNorm2d)),
    "cnn-groupnorm": (16, partial(cnn, norm=group_norm)),
    "resnet18": (64, lambda width: resnet(2, 2, 2, 2, width=width)),
    "resnet34": (64, lambda width: resnet(3, 4, 6, 3, width=width)),
    "resnet9": (64, resnet9),
    "resnet9-half": (32, resnet9),
    "resnet9-narrow": (16, resnet9),
}
"""Networks that can have another width: channels of their first layer, and a factory of that."""
MODELS: dict[str, Callable[[int, Shape], Network]] = {
    **{name: make(width) for name, (width, make) in WIDTHS.items()},
    "mlp": mlp,
    "lenet5": lenet5,
    "lenet5-half": lenet5_half,
    "wrn16-1": wrn16_1,
    "scattering": scattering,
}


def known_models() -> tuple[str, ...]:
    """Names of all networks: ours, then those of installed packages."""
    return known_names(GROUP, MODELS)


def build_network(
    name: str, classes: int, shape: Shape, seed: int, *, imports: bool = False
) -> nn.Module:
    """A network of that name with fresh weights, which depend on ``seed`` alone.

    Args:
        name: of ours, of an entry point in the group ``fedkd.models``, ``timm:NAME``,
            ``torchvision:NAME``, or ``package.module:factory``; a factory takes K and (C, H, W),
            and makes a module that maps (B, C, H, W) in [0, 1] to logits (B, K).
        classes: K, >= 1.
        shape: (C, H, W) of the images.
        seed: of the initial weights.
        imports: whether a module may be imported by name: for the user's own settings alone,
            never for a name that came over the wire.

    Raises:
        SettingsError: no such network, or images too small for it.
    """
    factory = network_factory(name, imports=imports)
    if classes < 1 or min(shape) < 1:
        raise SettingsError(
            f"a model of {classes} classes for images {shape}; each number must be 1 or more"
        )
    # torch initialises layers from its global generator only. In this module, and nowhere else,
    # that one is seeded, and given back as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # Of a name that came over the wire only sizes are tried: what fails is told apart there.
        network = (
            called("model", name, factory, classes, shape) if imports else factory(classes, shape)
        )
    if not isinstance(network, nn.Module):
        raise SettingsError(f"model {name!r} is a {type(network).__name__}; expected an nn.Module")
    return network


def narrow_network(name: str, classes: int, shape: Shape, fraction: float, seed: int) -> Network:
    """A network of that name with a fraction of its channels in every layer, and fresh weights.

    Args:
        name: a key of `WIDTHS`.
        classes: K, >= 1.
        shape: (C, H, W) of the images.
        fraction: of the channels, in (0, 1); rounded to whole channels, at least one.
        seed: of the initial weights.

    Raises:
        SettingsError: the network has one width alone, or images too small for it.
    """
    if name not in WIDTHS:
        raise SettingsError(
            f"model {name!r} has no narrower form; those that have one: {', '.join(WIDTHS)}"
        )
    width, factory = WIDTHS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return factory(max(1, round(fraction * width)))(classes, shape)


def network_factory(
    name: str, own: Mapping[str, Factory] = MODELS, *, imports: bool = False
) -> Callable[..., Any]:
    """The factory of a network, from K and (C, H, W).

    Args:
        name: as `build_network` takes it.
        own: our factories by name.
        imports: as `build_network` takes it.

    Raises:
        SettingsError: there is none.
    """
    prefix, colon, rest = name.partition(":")
    if imports and colon and prefix in LIBRARIES:
        return LIBRARIES[prefix](rest)
    return find_factory("model", GROUP, name, own, imports)


def penultimate_features(network: nn.Module, x: Tensor) -> Tensor:
    """The input of a network's last layer, (B, D); its logits where it is no `Network`."""
    features: Tensor = network.embed(x) if isinstance(network, Network) else network(x)
    return features


def reinitialised(network: nn.Module, seed: int) -> nn.Module:
    """A copy of ``network`` with fresh weights, which depend on ``seed`` alone.

    Raises:
        SettingsError: a layer with weights has no ``reset_parameters``.
    """
    other = copy.deepcopy(network)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, layer in other.named_modules():
            if next(layer.parameters(recurse=False), None) is None:
                continue
            if not hasattr(layer, "reset_parameters"):
                raise SettingsError(
                    f"layer {name!r} ({type(layer).__name__}) cannot be reinitialised; give it a "
                    "reset_parameters(), or choose another student"
                )
            layer.reset_parameters()
    return other
