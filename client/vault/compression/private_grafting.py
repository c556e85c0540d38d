"""Grafting with differential privacy: DP-SGD over all training images, stage after stage.

The teacher's own training is past and was charged. What its answers to an image are used for here
depends on that image alone, so each step is one of DP-SGD, and all stages together are accounted
for as one training (`fedkd.client.vault.training.dp_sgd`). Which channels a block begins with
depends on the teacher's sizes and a seed.
"""

import torch
from torch import Tensor, nn

from fedkd.client.vault.compression.grafting import Stage, graft
from fedkd.client.vault.training.dp_sgd import DpSgdTraining, guarantee_of
from fedkd.client.vault.training.settings import DpSgdSettings, ProgressCallback
from fedkd.errors import DataError, SettingsError
from fedkd.models import Network, Shape
from fedkd.privacy import Event, uniform
from fedkd.protocol import Guarantee, as_float


class SquaredDistance(nn.Module):
    """Squared distance of (B, M) and (B, M), for each image; of a step the sum."""

    reduction = "sum"
    """Opacus sets it to "none" where it wants the distance of each image."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """(), or (B,)."""
        distance = (outputs - targets).square().sum(1)
        return distance if self.reduction == "none" else distance.sum()


def graft_with_dp_sgd(
    teacher: Network,
    narrow: Network,
    shape: Shape,
    images: Tensor,
    settings: DpSgdSettings,
    seed: int,
    blocks: int,
    progress: ProgressCallback | None,
) -> tuple[Network, Guarantee]:
    """As `fedkd.client.vault.compression.grafting.graft`, and the guarantee of all its stages.

    The teacher's own guarantee is not in it.

    Args:
        teacher: without batch norm.
        narrow: of the same name, with fresh weights, which are overwritten.
        shape: (C, H, W) of the images.
        images: (N, C, H, W) uint8, all of the owner's.
        settings: the target guarantee; ``epochs`` are of all stages together.
        seed: of which channels the narrow blocks begin with, and of nothing else.
        blocks: of the network.
        progress: called after each stage.

    Raises:
        SettingsError: fewer steps than stages.
        DataError: the training diverged.
    """
    count = 2 * blocks - 1
    if settings.steps < count:
        raise SettingsError(
            f"{settings.steps} steps for {count} stages of grafting; raise epochs, or lower "
            "sampling_rate"
        )
    inputs, events, noise = as_float(images), list[Event](), 0.0
    done = 0

    def train(stage: Stage) -> None:
        nonlocal done, noise
        # Stages share the steps evenly, whatever is left over.
        steps = settings.steps * (done + 1) // count - settings.steps * done // count
        training = DpSgdTraining(stage.network, settings, SquaredDistance(), steps)
        for _ in range(steps):
            picked = inputs[torch.from_numpy(uniform(len(inputs)) < settings.sampling_rate)]
            training.step(picked, stage.network.targets(picked))
        training.remove_hooks()
        events.extend(training.events)
        noise, done = training.noise_multiplier, done + 1
        if progress is not None:
            progress(done, count)

    network = graft(teacher, narrow, shape, seed, train)
    if not all(p.isfinite().all() for p in network.parameters()):
        raise DataError("the private grafting diverged; lower teacher.shrunk.private.learning_rate")
    return network, guarantee_of(settings, events, noise)
