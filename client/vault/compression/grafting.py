r"""Progressive network grafting: a narrower network from a teacher and a handful of its images.

Source: Shen et al., Progressive Network Grafting for Few-Shot Knowledge Distillation, AAAI 2021
(arXiv 2012.04915), with the authors' code (zju-vipa/NetGraft).

Stage 1. Every block of the narrow network stands alone between 1x1 adapters in the frozen teacher,
in the place of the teacher's block. Stage 2. The blocks are joined from the first on, and train
together, until all are the narrow network's. Then the adapters fold into convolutions and head
(`fedkd.client.vault.compression.network_blocks`). The loss of an image, t the teacher's logits and
s those of the network with grafted blocks, is

    || t / ||t|| - s / ||s|| ||^2  +  sum_l ||h_l - a_l||^2 / ||h_l||^2,

the second sum over the grafted blocks l, h_l the teacher's output of its block and a_l the adapted
output of the narrow one.

Departures. The second sum is ours: on digits, logits alone leave early blocks too free for fifty
images. All blocks become narrower; the code keeps the first three of a VGG16. The head stays the
teacher's. The narrow blocks begin with some of the teacher's own channels; the code begins with
random weights. The paper's text was not read: this is our reading of its code. How stages train on
a handful of images: `fedkd.client.vault.compression.few_shot_grafting`, with more departures.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedkd.client.vault.compression.network_blocks import (
    GraftedBlock,
    copy_kept_channels,
    folded,
    graft_blocks,
    kept_channels,
    output_products,
    reconstructing_channels,
    split_into_blocks,
)
from fedkd.models import Network, Shape


class PartlyNarrow(nn.Module):
    """The teacher with some of its blocks replaced; gives what the loss compares.

    Args:
        teacher: frozen, in evaluation mode.
        blocks: the narrow ones, by the place of the block that each replaces.
    """

    def __init__(self, teacher: Network, blocks: Sequence[tuple[int, GraftedBlock]]) -> None:
        super().__init__()
        self._teacher, self._wide = teacher, nn.ModuleList(split_into_blocks(teacher))
        self._narrow = dict(blocks)
        # Registered, so that an optimiser and Opacus find their parameters.
        self.trained = nn.ModuleList(m for _, block in blocks for m in block.modules)

    def logits(self, x: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] -> (B, K)."""
        for place, wide in enumerate(self._wide):
            x = self._narrow.get(place, wide)(x)
        said: Tensor = self._teacher.head(x)
        return said

    def targets(self, x: Tensor) -> Tensor:
        """What the teacher gives where `forward` gives the approximation, (B, M); no gradient."""
        outputs = []
        with torch.no_grad():
            for place, wide in enumerate(self._wide):
                x = wide(x)
                if place in self._narrow:
                    outputs.append(F.normalize(x.flatten(1), dim=1))
            return torch.cat([F.normalize(self._teacher.head(x), dim=1), *outputs], 1)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised logits and adapted outputs of the narrow blocks, (B, M).

        The squared distance to `targets` is the loss of an image.
        """
        outputs, reference = [], x
        for place, wide in enumerate(self._wide):
            with torch.no_grad():
                reference = wide(reference)
            if place in self._narrow:
                x = self._narrow[place](x)
                length = reference.flatten(1).norm(dim=1, keepdim=True).clamp_min(1e-12)
                outputs.append(x.flatten(1) / length)
            else:
                x = wide(x)
        return torch.cat([F.normalize(self._teacher.head(x), dim=1), *outputs], 1)


@dataclass(frozen=True, eq=False)
class Stage:
    """What trains together."""

    network: PartlyNarrow
    alone: bool
    """Whether it is one block alone, and not the first blocks joined."""


TrainStage = Callable[[Stage], None]
"""Trains the ``trained`` modules of a stage's network in place."""


def graft(
    teacher: Network,
    narrow: Network,
    shape: Shape,
    seed: int,
    train: TrainStage,
    inputs: Sequence[Tensor] = (),
) -> Network:
    """A narrower network that answers as the teacher does, in evaluation mode.

    Args:
        teacher: of `fedkd.models.WIDTHS`. It is not changed.
        narrow: of the same name, with fresh weights, which are overwritten.
        shape: (C, H, W) of the images.
        seed: of which channels the narrow blocks begin with.
        train: called for every stage, in their order; see `stages`.
        inputs: batches (B, C, H, W) in [0, 1] by which channels are chosen and adapters begin;
            none: by ``seed`` alone, so that no image is looked at.
    """
    frozen = copy.deepcopy(teacher).eval().requires_grad_(False)
    if inputs:
        products = output_products(frozen, inputs)
        kept = reconstructing_channels(frozen, narrow, seed, products)
    else:
        products, kept = [], kept_channels(frozen, narrow, seed)
    copy_kept_channels(frozen, narrow, kept)
    blocks = graft_blocks(frozen, narrow, shape, kept, products)
    for stage in stages(frozen, blocks):
        train(stage)
    return folded(narrow, blocks, frozen.head).eval()


def stages(teacher: Network, blocks: Sequence[GraftedBlock]) -> Iterator[Stage]:
    """Each block alone, then the first two joined, the first three, up to all."""
    placed = list(enumerate(blocks))
    for one in placed:
        yield Stage(PartlyNarrow(teacher, [one]), alone=True)
    for count in range(2, len(placed) + 1):
        yield Stage(PartlyNarrow(teacher, placed[:count]), alone=False)
