"""Train a teacher network in several calls: SGD with momentum, cosine decay, shifts and flips.

The seed and the number of a step decide its batch, so an interrupted training resumes as if it had
not been interrupted.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from fedkd.core.augmentation import NO_AUGMENTATION, Augmentation
from fedkd.core.checkpoint_state import Part, State, gather, read, scatter, write
from fedkd.core.device import Compute
from fedkd.data.dataset import Dataset
from fedkd.server.report.records.run_folder import atomic_path

MOMENTUM, DECAY = 0.9, 5e-4
CHECKPOINT_INTERVAL = 30.0
"""Seconds between saved states."""


@dataclass(frozen=True)
class TeacherSettings:
    """Hyperparameters of the training.

    Attributes:
        epochs: passes over the training images.
        batch: images in a step.
        learning_rate: at the first step; decays to 0 along a cosine.
        augmentation: of every training image, drawn anew in each epoch.
    """

    epochs: int
    batch: int
    learning_rate: float
    augmentation: Augmentation = NO_AUGMENTATION


def train_until(
    network: nn.Module,
    data: Dataset,
    settings: TeacherSettings,
    compute: Compute,
    path: Path,
    deadline: float,
    seed: int = 0,
    progress: Callable[[float], None] = lambda share: None,
) -> tuple[nn.Module, float]:
    """Train until the deadline; returns the network and the share of its steps that is done.

    Args:
        network: with fresh weights, trained in place.
        data: only its training images are read.
        settings: hyperparameters.
        compute: device and precision.
        path: of the training state, resumed where it exists, and saved at the deadline.
        deadline: on the monotonic clock, in seconds.
        seed: of all random choices.
        progress: told the share of the steps that is done, after each.

    Raises:
        DataError: the state belongs to another training.
    """
    compute.place(network.train())
    optimizer = torch.optim.SGD(
        network.parameters(), settings.learning_rate, MOMENTUM, weight_decay=DECAY, nesterov=True
    )
    parts: dict[str, Part] = {"network": network, "optimizer": optimizer}
    steps_per_epoch = math.ceil(len(data.train_images) / settings.batch)
    total_steps = settings.epochs * steps_per_epoch
    steps_done = steps_before = int(scatter(read(path), parts)["taken"]) if path.exists() else 0
    images, labels = (t.to(compute.device) for t in (data.train_images, data.train_labels))
    saved_at, order, epoch = time.monotonic(), torch.empty(0, dtype=torch.long), -1
    while steps_done < total_steps and time.monotonic() < deadline:
        if epoch != steps_done // steps_per_epoch:
            epoch = steps_done // steps_per_epoch
            order = torch.randperm(len(images), generator=_rng(seed, -1 - epoch))
        start = (steps_done % steps_per_epoch) * settings.batch
        indices = order[start : start + settings.batch].to(compute.device)
        for group in optimizer.param_groups:
            cosine = 0.5 + 0.5 * math.cos(math.pi * steps_done / total_steps)
            group["lr"] = settings.learning_rate * cosine
        if len(indices) > 1:  # one image alone has no variance for batch norm
            x = settings.augmentation.augment(images[indices], _rng(seed, steps_done))
            loss = F.cross_entropy(compute.logits(network, x), labels[indices])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
        steps_done += 1
        progress(steps_done / total_steps)
        if time.monotonic() - saved_at > CHECKPOINT_INTERVAL:
            _save_state(path, gather(parts, {"taken": steps_done}))
            saved_at = time.monotonic()
    if steps_done > steps_before:
        _save_state(path, gather(parts, {"taken": steps_done}))
    return network.eval(), steps_done / total_steps


def _rng(seed: int, number: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * 2**24 + number)


def _save_state(path: Path, state: State) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as file:
        write(state, file)
