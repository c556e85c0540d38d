"""A teacher of natural images, trained in as many goes as it takes. Knows no student.

Stochastic gradient descent with momentum, a cosine, and images that are shifted and mirrored: what
anybody trains a ResNet on CIFAR with. Every batch is decided by the seed and its number, so a
training that was cut short goes on as if it had not been.
"""

import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from fedkd.core.augmentation import Views
from fedkd.core.compute import Compute
from fedkd.core.state import Part, State, gather, read, scatter, write
from fedkd.data.datasets import Dataset
from fedkd.models.networks import Network, build
from fedkd.server.report.run_folder import replacing

VIEWS = Views(shift=4, mirrors=True)
"""Of every image, a new one in each epoch."""
MOMENTUM, DECAY = 0.9, 5e-4
EVERY = 30.0
"""Seconds between states."""


@dataclass(frozen=True)
class Lessons:
    """How it is taught.

    Attributes:
        epochs: times that every image is seen.
        batch: images in a step.
        rate: at the first step; it falls to 0 along a cosine.
    """

    epochs: int
    batch: int
    rate: float


def trained(
    model: str,
    data: Dataset,
    lessons: Lessons,
    compute: Compute,
    path: Path,
    deadline: float,
    seed: int = 0,
) -> tuple[Network, float]:
    """The network, as far as it has come by the deadline, and the share of its steps that is done.

    Args:
        model: a key of `fedkd.models.networks.MODELS`.
        data: its training images alone are read.
        lessons: how it is taught.
        compute: where.
        path: of its state, which is taken up where there is one, and left at the deadline.
        deadline: on the monotonic clock, in seconds.
        seed: of everything random.

    Raises:
        DataError: the state is of another training.
    """
    network = build(model, data.classes, data.shape, seed)
    compute.place(network.train())
    optimizer = torch.optim.SGD(
        network.parameters(), lessons.rate, MOMENTUM, weight_decay=DECAY, nesterov=True
    )
    parts: dict[str, Part] = {"network": network, "optimizer": optimizer}
    each = math.ceil(len(data.train_images) / lessons.batch)
    whole = lessons.epochs * each
    taken = before = int(scatter(read(path), parts)["taken"]) if path.exists() else 0
    images, labels = (t.to(compute.device) for t in (data.train_images, data.train_labels))
    written, order, epoch = time.monotonic(), torch.empty(0, dtype=torch.long), -1
    while taken < whole and time.monotonic() < deadline:
        if epoch != taken // each:
            epoch = taken // each
            order = torch.randperm(len(images), generator=_rng(seed, -1 - epoch))
        start = (taken % each) * lessons.batch
        picked = order[start : start + lessons.batch].to(compute.device)
        for group in optimizer.param_groups:
            group["lr"] = lessons.rate * (0.5 + 0.5 * math.cos(math.pi * taken / whole))
        if len(picked) > 1:  # one image alone has no variance for batch norm
            x = VIEWS.of(images[picked], _rng(seed, taken))
            loss = F.cross_entropy(compute.say(network, x), labels[picked])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
        taken += 1
        if time.monotonic() - written > EVERY:
            _keep(path, gather(parts, {"taken": taken}))
            written = time.monotonic()
    if taken > before:
        _keep(path, gather(parts, {"taken": taken}))
    return network.eval(), taken / whole


def _rng(seed: int, number: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * 2**24 + number)


def _keep(path: Path, state: State) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        write(state, file)
