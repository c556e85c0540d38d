"""Grafting on a handful of images, and its control.

Blocks are grafted (`fedkd.client.vault.compression.grafting`), then the whole narrow network learns
the teacher's class probabilities, temperature 1 (Hinton et al., arXiv 1503.02531).

Departures from Shen et al., and what each is for. Blobs, channels and the length of the stages were
chosen on training images held back from teachers of other seeds; figures in ``docs/teachers.md``.

* The teacher is asked about more than the images: each is shifted, has up to half of another one
  added (mixup), and of half of them blobs are replaced by another one (CutMix). The code crops and
  mirrors. What a teacher says of such an image is known at home, and needs no label.
* The channels that the narrow blocks begin with, and the adapters after them, are those by which
  least squares best reconstructs the teacher's. The code begins with random weights.
* Stages are short, and a long distillation of the folded network ends the training. Half of the
  channels cannot reconstruct each block; they can give nearly the same classes.
* Adam's rate falls along a cosine, and the last step's weights are kept. The code keeps the best of
  its epochs by a test set.

`distil` is also the control: the same narrow network from random weights, as many steps, on the
same images, either shifted alone or augmented as grafting has them.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedkd.client.vault.compression.grafting import Stage, TrainStage, graft
from fedkd.client.vault.compression.network_blocks import split_into_blocks
from fedkd.client.vault.compression.settings import ShrinkSettings
from fedkd.client.vault.training.settings import ProgressCallback
from fedkd.models import Network, Shape
from fedkd.procedural.drawing_primitives import blob_masks
from fedkd.protocol import as_float

MAX_BATCH = 64
"""Images of a step."""
JOINED_RATE = 0.4
"""Of joined blocks, times that of a block alone."""
LOOKED_AT = 20
"""Batches by which channels are chosen."""


def graft_with_few_images(
    teacher: Network,
    narrow: Network,
    shape: Shape,
    images: Tensor,
    settings: ShrinkSettings,
    seed: int,
    progress: ProgressCallback | None,
) -> Network:
    """A narrower network that answers as the teacher does, in evaluation mode.

    Args:
        teacher: in evaluation mode. It is not changed.
        narrow: of the same name, with fresh weights, which are overwritten.
        shape: (C, H, W) of the images.
        images: (N, C, H, W) uint8, N >= 2.
        settings: how.
        seed: of the order of images and of their augmentation.
        progress: called after each stage, and after the distillation.
    """
    inputs = _augmented(images, settings, torch.Generator().manual_seed(seed), mixed=True)
    looked_at = [next(inputs) for _ in range(LOOKED_AT)]
    count = 2 * len(split_into_blocks(narrow))
    train = _stage_training(inputs, settings, count, progress)
    network = graft(teacher, narrow, shape, seed, train, looked_at)
    if settings.last_steps:
        _distil(teacher, network, settings.last_steps, settings.learning_rate, inputs)
    if progress is not None:
        progress(count, count)
    return network


def _stage_training(
    inputs: Iterator[Tensor],
    settings: ShrinkSettings,
    count: int,
    progress: ProgressCallback | None,
) -> TrainStage:
    """Trains one stage after another; ``progress`` is told which, of ``count``."""
    done = 0

    def train(stage: Stage) -> None:
        nonlocal done
        rate = settings.learning_rate * (1.0 if stage.alone else JOINED_RATE)
        network, parts = stage.network, stage.network.trained.train()

        def loss(x: Tensor) -> Tensor:
            distance: Tensor = network(x) - network.targets(x)
            return distance.square().sum(1).mean()

        _descend(list(parts.parameters()), settings.steps, rate, inputs, loss)
        parts.eval()
        done += 1
        if progress is not None:
            progress(done, count)

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
        images: (N, C, H, W) uint8, N >= 2.
        settings: how.
        seed: of the order of images and of their augmentation.
        mixed: whether shifted images are also mixed, as grafting has them.
    """
    stages = 2 * len(split_into_blocks(student)) - 1
    steps = settings.steps * stages + settings.last_steps
    inputs = _augmented(images, settings, torch.Generator().manual_seed(seed), mixed=mixed)
    _distil(teacher, student, steps, settings.learning_rate, inputs)


def _distil(
    teacher: nn.Module, student: Network, steps: int, rate: float, inputs: Iterator[Tensor]
) -> None:
    """Train the student in place to give the teacher's class probabilities."""

    def loss(x: Tensor) -> Tensor:
        with torch.no_grad():
            target = teacher(x).softmax(1)
        return F.kl_div(student(x).log_softmax(1), target, reduction="batchmean")

    student.train()
    _descend(list(student.parameters()), steps, rate, inputs, loss)
    student.eval()


def _augmented(
    images: Tensor, settings: ShrinkSettings, rng: torch.Generator, *, mixed: bool
) -> Iterator[Tensor]:
    """Batches of images, (B, C, H, W) in [0, 1], without end.

    Mixed, each has up to half of another one in it, and half of them blobs of another one.
    """
    while True:
        picked = torch.randperm(len(images), generator=rng)[:MAX_BATCH]
        x = as_float(settings.augmentation.augment(images[picked], rng))
        if mixed:
            part = torch.rand(len(x), 1, 1, 1, generator=rng) / 2
            x = torch.lerp(x, x[torch.randperm(len(x), generator=rng)], part)
            half = len(x) // 2
            blobs = blob_masks(half, (x.shape[1], x.shape[2], x.shape[3]), rng)
            others = x[torch.randperm(len(x), generator=rng)[:half]]
            x = torch.cat([torch.lerp(x[:half], others, blobs), x[half:]])
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
