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
images. The narrow blocks begin with some of the teacher's own channels; the code begins with random
weights. All blocks become narrower; the code keeps the first three of a VGG16. Images are shifted,
and mixed with up to half of another one, and the teacher is asked about the sum; the code crops and
mirrors. Adam's rate falls along a cosine, the head stays the teacher's, and the last step's weights
are kept, not the best by a test. The paper's text was not read: this is our reading of its code.

`distil` is the control: the same narrow network from random weights by plain distillation on the
same images (Hinton et al., arXiv 1503.02531, temperature 1). Figures: ``docs/teachers.md``.
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
    split_into_blocks,
)
from fedkd.client.vault.compression.settings import ShrinkSettings
from fedkd.client.vault.training.settings import ProgressCallback
from fedkd.models import Network, Shape
from fedkd.protocol import as_float

MAX_BATCH = 64
"""Images of a step."""
JOINED_RATE = 0.4
"""Of joined blocks, times that of a block alone."""


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


def graft(teacher: Network, narrow: Network, shape: Shape, seed: int, train: TrainStage) -> Network:
    """A narrower network that answers as the teacher does, in evaluation mode.

    Args:
        teacher: of `fedkd.models.WIDTHS`. It is not changed.
        narrow: of the same name, with fresh weights, which are overwritten.
        shape: (C, H, W) of the images.
        seed: of which channels the narrow blocks begin with.
        train: called for every stage, in their order; see `stages`.
    """
    frozen = copy.deepcopy(teacher).eval().requires_grad_(False)
    kept = kept_channels(frozen, narrow, seed)
    copy_kept_channels(frozen, narrow, kept)
    blocks = graft_blocks(frozen, narrow, shape, kept)
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


def few_shot_training(
    images: Tensor,
    settings: ShrinkSettings,
    seed: int,
    blocks: int,
    progress: ProgressCallback | None,
) -> TrainStage:
    """Trains stages on a handful of images.

    Args:
        images: (N, C, H, W) uint8.
        settings: how.
        seed: of the order of images and of their augmentation.
        blocks: of the network, for ``progress``.
        progress: called after each stage.
    """
    rng, done = torch.Generator().manual_seed(seed), 0

    def train(stage: Stage) -> None:
        nonlocal done
        rate = settings.learning_rate * (1.0 if stage.alone else JOINED_RATE)
        network, parts = stage.network, stage.network.trained.train()

        def loss(x: Tensor) -> Tensor:
            distance: Tensor = network(x) - network.targets(x)
            return distance.square().sum(1).mean()

        inputs = _augmented(images, settings, rng, mixed=True)
        _descend(list(parts.parameters()), settings.steps, rate, inputs, loss)
        parts.eval()
        done += 1
        if progress is not None:
            progress(done, 2 * blocks - 1)

    return train


def distil(
    teacher: nn.Module,
    student: Network,
    images: Tensor,
    settings: ShrinkSettings,
    seed: int,
    *,
    mixed: bool,
) -> None:
    """Plain distillation on the same images, with as many steps as grafting takes; in place.

    Args:
        teacher: in evaluation mode.
        student: with fresh weights; left in evaluation mode.
        images: (N, C, H, W) uint8.
        settings: how.
        seed: of the order of images and of their augmentation.
        mixed: whether shifted images are also mixed, as grafting has them.
    """
    steps = settings.steps * (2 * len(split_into_blocks(student)) - 1)
    inputs = _augmented(images, settings, torch.Generator().manual_seed(seed), mixed=mixed)

    def loss(x: Tensor) -> Tensor:
        with torch.no_grad():
            target = teacher(x).softmax(1)
        return F.kl_div(student(x).log_softmax(1), target, reduction="batchmean")

    student.train()
    _descend(list(student.parameters()), steps, settings.learning_rate, inputs, loss)
    student.eval()


def _augmented(
    images: Tensor, settings: ShrinkSettings, rng: torch.Generator, *, mixed: bool
) -> Iterator[Tensor]:
    """Batches of images, (B, C, H, W) in [0, 1], without end.

    Mixed, each has up to half of another one in it, and the teacher is asked about the sum.
    """
    while True:
        picked = torch.randperm(len(images), generator=rng)[:MAX_BATCH]
        x = as_float(settings.augmentation.augment(images[picked], rng))
        if mixed:
            part = torch.rand(len(x), 1, 1, 1, generator=rng) / 2
            x = torch.lerp(x, x[torch.randperm(len(x), generator=rng)], part)
        yield x


def few_images(labels: Tensor, count: int, seed: int) -> Tensor:
    """Places of ``count`` samples of each class, drawn at random; of all where it has fewer.

    Args:
        labels: (N,) int64.
        count: of each class, >= 1.
        seed: of the draw.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    known = labels[order]
    return torch.cat([order[known == label][:count] for label in sorted(set(labels.tolist()))])


def _descend(
    parameters: list[nn.Parameter],
    steps: int,
    rate: float,
    inputs: Iterator[Tensor],
    loss: Callable[[Tensor], Tensor],
) -> None:
    """Adam, its rate falling along a cosine."""
    adam = torch.optim.Adam(parameters, rate)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    for _ in range(steps):
        value = loss(next(inputs))
        adam.zero_grad()
        torch.autograd.backward(value)
        adam.step()
        cosine.step()
