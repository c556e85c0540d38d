"""Blocks of a network, 1x1 adapters between them, and how adapters fold into the layers.

A block begins with a convolution, or with a residual block whose shortcut is one. Both are linear
in what they read, so a 1x1 convolution without bias before such a block folds into its weights
exactly, with zero padding too. The adapter after the last block folds into the linear head.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedkd.models import Network, Shape
from fedkd.models.architectures import PostActivationBlock


def split_into_blocks(network: Network) -> list[nn.Sequential]:
    """The body of a network as blocks, one after another; they share its parameters.

    Args:
        network: of `fedkd.models.WIDTHS`.
    """
    first, body = network.body
    blocks = [[first]]
    assert isinstance(body, nn.Sequential)
    for layer in body:
        has_weights = any(next(other.parameters(), None) is not None for other in blocks[-1])
        if has_weights and _reading_convolutions(layer):
            blocks.append([])
        blocks[-1].append(layer)
    return [nn.Sequential(*layers) for layers in blocks]


def _reading_convolutions(layer: nn.Module) -> list[nn.Conv2d]:
    """The convolutions that read the input of a block which begins so; none: no block does."""
    if isinstance(layer, nn.Conv2d):
        return [layer]
    if isinstance(layer, PostActivationBlock) and isinstance(layer.shortcut, nn.Sequential):
        shortcut = layer.shortcut[0]
        assert isinstance(shortcut, nn.Conv2d)
        return [layer.conv1, shortcut]
    return []


def kept_channels(wide: Network, narrow: Network, seed: int) -> dict[int, Tensor]:
    """By a layer's width in the wide network, which of its channels the narrow one has.

    Layers of one width keep the same channels, so that residual sums stay sums of like channels.
    """
    rng, kept = torch.Generator().manual_seed(seed), {}
    small = narrow.state_dict()
    for name, tensor in wide.state_dict().items():
        for width, left in zip(tensor.shape, small[name].shape, strict=True):
            if width != left and width not in kept:
                kept[width] = torch.randperm(width, generator=rng)[:left].sort().values
    return kept


def output_products(wide: Network, batches: Iterable[Tensor]) -> list[Tensor]:
    """For each block the products of its output channels, summed: (D, D) float64.

    Args:
        wide: in evaluation mode.
        batches: (B, C, H, W) in [0, 1].
    """
    blocks = split_into_blocks(wide)
    sums: list[Tensor] = [torch.zeros((), dtype=torch.float64) for _ in blocks]
    with torch.no_grad():
        for x in batches:
            for place, block in enumerate(blocks):
                x = block(x)
                values = x.transpose(0, 1).flatten(1).double()  # (B, D) or (B, D, H, W)
                sums[place] = sums[place] + values @ values.T
    return sums


def reconstructing_channels(
    wide: Network, narrow: Network, seed: int, products: Sequence[Tensor]
) -> dict[int, Tensor]:
    """As `kept_channels`: those from which all of a block's outputs are best reconstructed.

    They are chosen one after another, each for the most that least squares then gains over the
    blocks of that width, a block's outputs counting 1 in all.

    Args:
        wide: the teacher.
        narrow: tells how many are kept.
        seed: of widths that no block ends in.
        products: see `output_products`.
    """
    kept = kept_channels(wide, narrow, seed)
    for width, channels in kept.items():
        left = [own / own.trace().clamp_min(1e-12) for own in products if len(own) == width]
        if not left:
            continue
        chosen: list[int] = []
        for _ in channels:
            gain = torch.stack([own.square().sum(0) / own.diag().clamp_min(1e-9) for own in left])
            # A channel that others reconstruct exactly gains nothing, whatever rounding says.
            gain[torch.stack([own.diag() for own in left]) < 1e-9] = 0.0
            total = gain.sum(0)
            total[chosen] = -1.0
            best = int(total.argmax())
            chosen.append(best)
            left = [_without(own, best) for own in left]
        kept[width] = torch.tensor(sorted(chosen))
    return kept


def _without(products: Tensor, channel: int) -> Tensor:
    """Products of what is left of the channels once ``channel`` explains what it can."""
    own, column = products[channel, channel], products[:, channel]
    return products if own < 1e-9 else products - torch.outer(column, column) / own


def copy_kept_channels(wide: Network, narrow: Network, kept: Mapping[int, Tensor]) -> None:
    """Give the narrow network the weights of the wide one's kept channels."""
    small, weights = narrow.state_dict(), {}
    for name, tensor in wide.state_dict().items():
        for dimension, width in enumerate(tensor.shape):
            if width != small[name].shape[dimension]:
                tensor = tensor.index_select(dimension, kept[width])
        weights[name] = tensor
    narrow.load_state_dict(weights)


@dataclass(frozen=True, eq=False)
class GraftedBlock:
    """A block of the narrow network between adapters, in the place of a wide one."""

    before: nn.Conv2d | None
    """1x1, wide -> narrow; None before the first block, which reads the image."""
    block: nn.Sequential
    after: nn.Conv2d | nn.Linear
    """1x1, narrow -> wide; linear where the block ends in features (B, D)."""

    @property
    def modules(self) -> list[nn.Module]:
        """What is trained."""
        parts = [self.before, self.block, self.after]
        return [part for part in parts if part is not None]

    def __call__(self, x: Tensor) -> Tensor:
        """Input of the wide block -> approximation of its output, of the same shape."""
        y: Tensor = self.after(self.block(x if self.before is None else self.before(x)))
        return y


def graft_blocks(
    wide: Network,
    narrow: Network,
    shape: Shape,
    kept: Mapping[int, Tensor],
    products: Sequence[Tensor] = (),
) -> list[GraftedBlock]:
    """The blocks of the narrow network, with adapters.

    Adapters before a block carry the kept channels alone, and so do those after it without
    ``products``. With them the latter reconstruct all channels by least squares.

    Args:
        wide: the teacher, in evaluation mode.
        narrow: shares its parameters with what is returned.
        shape: (C, H, W) of the images.
        kept: see `kept_channels`.
        products: see `output_products`.
    """
    grafted, x = list[GraftedBlock](), torch.zeros(1, *shape)
    before: nn.Conv2d | None = None
    pairs = zip(split_into_blocks(wide), split_into_blocks(narrow), strict=True)
    for place, (block, own) in enumerate(pairs):
        with torch.no_grad():
            x = block(x)
        width = x.shape[1]
        picked = torch.eye(width)[kept[width]] if width in kept else torch.eye(width)
        outward = picked.T
        if products and width in kept:
            outward = _reconstruction(products[place], kept[width])
        after = _linear(outward) if x.dim() == 2 else _convolution(outward)
        grafted.append(GraftedBlock(before, own, after))
        before = _convolution(picked)  # of no use after features, and then not read
    return grafted


def _reconstruction(products: Tensor, kept: Tensor) -> Tensor:
    """The linear map from kept channels to all, by least squares, (D, d) float32."""
    known = products[kept][:, kept]
    ridge = 1e-4 * known.diag().mean().clamp_min(1e-12)
    solved: Tensor = torch.linalg.solve(
        known + ridge * torch.eye(len(kept), dtype=known.dtype), products[kept]
    )
    return solved.T.float()


def _linear(matrix: Tensor) -> nn.Linear:
    """A linear map without bias, (out, in)."""
    with torch.random.fork_rng(devices=[]):  # its fresh weights are overwritten
        layer = nn.Linear(matrix.shape[1], matrix.shape[0], bias=False)
    with torch.no_grad():
        layer.weight.copy_(matrix)
    return layer


def _convolution(matrix: Tensor) -> nn.Conv2d:
    """A linear map of channels without bias, (out, in), as a 1x1 convolution."""
    with torch.random.fork_rng(devices=[]):
        layer = nn.Conv2d(matrix.shape[1], matrix.shape[0], 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(matrix[:, :, None, None])
    return layer


def folded(narrow: Network, blocks: Sequence[GraftedBlock], head: nn.Linear) -> Network:
    """A copy of the narrow network with all adapters, and the wide head, folded into its weights.

    In evaluation mode it computes what the joined blocks and the wide head compute.

    Args:
        narrow: the network whose blocks were grafted.
        blocks: all of them, from `graft_blocks`.
        head: the wide network's, D -> K.
    """
    network = copy.deepcopy(narrow)
    with torch.no_grad():
        for number, block in enumerate(split_into_blocks(network)):
            before = blocks[number].before
            if before is not None:
                matrix = before.weight.flatten(1) @ blocks[number - 1].after.weight.flatten(1)
                for convolution in _reading_convolutions(block[0]):
                    product = torch.einsum("oikl,ij->ojkl", convolution.weight, matrix)
                    convolution.weight.copy_(product)
        network.head.weight.copy_(head.weight @ blocks[-1].after.weight)
        network.head.bias.copy_(head.bias)
    return network
