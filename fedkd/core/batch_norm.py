"""Batch norm by the statistics of a batch, and statistics taken anew from other samples.

Samples that are made up shift what enters a batch-norm layer, and its running statistics then
normalise something else than they were taken of; the statistics of the batch itself do not. So a
network of pictures tells samples of noise apart. Source: Raikwar and Mishra, NeurIPS 2022.

A student that learned so has running statistics of made-up samples. They are to be taken anew from
samples like those that it will see, which need no labels: adaptive batch normalisation, Li et al.
(arXiv 1603.04779).
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedkd.errors import DataError
from fedkd.protocol import as_float

AT_ONCE = 1024
"""Samples of which statistics are taken at once."""


def batch_norm_layers(network: nn.Module) -> list[_BatchNorm]:
    """Its batch-norm layers that keep running statistics."""
    return [
        layer
        for layer in network.modules()
        if isinstance(layer, _BatchNorm) and layer.running_mean is not None
    ]


@contextmanager
def evaluated_by_batch_statistics(network: nn.Module) -> Iterator[None]:
    """Evaluation mode, but for batch norm: by each batch's statistics, of which none are kept."""
    network.eval()
    layers = batch_norm_layers(network)
    for layer in layers:
        layer.train().track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.eval().track_running_stats = True


def recalibrated(network: nn.Module, images: Tensor, at_once: int = AT_ONCE) -> nn.Module:
    """A copy whose batch-norm layers have the statistics of ``images``, in evaluation mode.

    Of more images than ``at_once`` each layer has the mean over parts of them. Without batch norm
    the copy is the network as it was.

    Args:
        network: (B, C, H, W) float in [0, 1] -> (B, K); it stays as it is.
        images: (N, C, H, W), uint8 or float in [0, 1]: like those that it will be used for.
        at_once: most images of which statistics are taken at once, >= 2.

    Raises:
        DataError: fewer than two images.
    """
    if len(images) < 2:
        raise DataError(f"statistics of {len(images)} samples; bring two at least, better hundreds")
    own = copy.deepcopy(network).eval()
    layers, first = batch_norm_layers(own), next(own.parameters(), None)
    device = images.device if first is None else first.device
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.train().reset_running_stats()
        layer.momentum = None  # the mean over all parts
    if layers:
        with torch.no_grad():
            for part in torch.tensor_split(images, -(-len(images) // at_once)):
                own(as_float(part.to(device)))
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.eval().momentum = momentum
    return own
