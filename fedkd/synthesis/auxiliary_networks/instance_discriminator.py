"""Instance discrimination: a network that tells synthesised images apart by the student's features.

Source: CMI (Fang et al., IJCAI 2021), where the teacher's features are compared; see
`fedkd.synthesis.auxiliary_networks.teacher_instance_discriminator`.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedkd.core.checkpoint_state import State, gather, scatter
from fedkd.core.device import Compute, device_of
from fedkd.core.interfaces import Context
from fedkd.core.source_types import AnsweredBatch
from fedkd.errors import SettingsError
from fedkd.losses.term import Batch
from fedkd.models import penultimate_features
from fedkd.protocol import as_float


@dataclass(frozen=True, eq=False)
class ContrastSettings:
    """The settings, whoever's features are compared.

    Attributes:
        temperature: of similarities, > 0.
        negatives: images of earlier batches in a step, >= 0.
        capacity: most of them that are kept, >= 1.
        width: of what images are compared by, >= 1.
        rate: of its Adam, > 0.
        crop: least share of an image that its other view shows, in (0, 1].
    """

    temperature: float
    negatives: int
    capacity: int
    width: int
    rate: float
    crop: float

    def __post_init__(self) -> None:
        numbers = (self.temperature, self.rate)
        if not (
            all(0 < number < math.inf for number in numbers)
            and min(self.capacity, self.width) >= 1
            and self.negatives >= 0
            and 0 < self.crop <= 1
        ):
            raise SettingsError(f"{self!r} is out of range; see its docstring")


@dataclass(frozen=True, eq=False)
class InstanceDiscriminator(ContrastSettings):
    """The settings of one that compares the student's features."""

    def build(self, context: Context) -> "TrainedInstanceDiscriminator":
        """The auxiliary network."""
        student, compute = context.student, context.compute
        return TrainedInstanceDiscriminator(self, student, compute, context.shape, context.seed)


class TrainedInstanceDiscriminator:
    """A small network over the student's features, and finished images of earlier batches.

    Args:
        how: the settings.
        student: (B, C, H, W) in [0, 1] -> (B, K), read and never changed; what enters its last
            layer is what counts.
        compute: how the student is evaluated.
        shape: (C, H, W).
        seed: of the first weights.
    """

    def __init__(
        self,
        how: InstanceDiscriminator,
        student: nn.Module,
        compute: Compute,
        shape: tuple[int, int, int],
        seed: int,
    ) -> None:
        self.how, self.student, self._compute = how, student, compute
        device = device_of(student)
        blank = torch.zeros(2, *shape, device=device)
        with compute.evaluation(student), torch.no_grad():
            size = penultimate_features(student, blank).shape[1]
        self.head = projection(size, how.width, seed).to(device)
        self.optimizer = torch.optim.Adam(self.head.parameters(), how.rate)
        self._before = torch.empty(0, *shape, dtype=torch.uint8)

    def views(self, images: Tensor, rng: torch.Generator) -> Tensor | None:
        """The student looks at views, and nobody is asked."""
        return None

    def observe(self, batch: Batch, answered: AnsweredBatch | None, rng: torch.Generator) -> Tensor:
        """`loss` of the batch's images."""
        return self.loss(batch.images, rng)

    def loss(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """How hard it is to tell which image a view of it shows, (); low is distinct.

        ``mean_i -log softmax_j(v_i . V_j / tau)_i`` over ``images`` and a sample of those before,
        v of a view and V of the image itself, both of length 1. Both kinds weigh alike, however
        many they are. Slopes pass through views alone.

        Args:
            images: (B, C, H, W) in [0, 1].
            rng: draws views, and those from before.
        """
        sample = torch.randperm(len(self._before), generator=rng)[: self.how.negatives]
        x = torch.cat([images, as_float(self._before[sample].to(images.device))])
        views = self._compared(cropped(x, self.how.crop, rng))
        return discrimination(views, self._compared(x), len(images), self.how.temperature)

    def stepped(self) -> None:
        """A step along the gradients that `loss` has left."""
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def finish(self, images: Tensor) -> None:
        """Keep finished ``images``, (B, C, H, W) uint8; the oldest give way."""
        self._before = torch.cat([self._before, images])[-self.how.capacity :]

    def state(self) -> State:
        """Its network, momenta, and the images that it keeps."""
        state = gather(self._parts, {})
        return State({**state.tensors, "before": self._before.clone()}, state.numbers)

    def restore(self, state: State) -> None:
        """Be again as when ``state`` was taken."""
        scatter(state, self._parts)
        self._before = state.tensors["before"].clone()

    def _compared(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, width), of length 1."""
        with self._compute.evaluation(self.student):
            features = penultimate_features(self.student, x)
        return F.normalize(self.head(features), dim=1)

    @property
    def _parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        return {"head": self.head, "optimizer": self.optimizer}


def projection(size: int, width: int, seed: int) -> nn.Module:
    """h, two layers: features (B, size) -> what is compared, (B, width)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, width))


def discrimination(views: Tensor, whole: Tensor, now: int, temperature: float) -> Tensor:
    """``mean_i -log softmax_j(v_i . V_j / tau)_i``, of images now and of those before alike. ().

    Args:
        views: v, (B, D), of length 1.
        whole: V, (B, D), likewise; no slope passes through it.
        now: how many of them are of the batch, >= 1; the others were before it.
        temperature: tau > 0.
    """
    alike = views @ whole.detach().T / temperature
    target = torch.arange(len(views), device=views.device)
    each = F.cross_entropy(alike, target, reduction="none")
    return each[:now].mean() + each[now:].mean() if len(each) > now else each.mean()


def cropped(images: Tensor, least: float, rng: torch.Generator) -> Tensor:
    """A square part of each image, as large as the image was: (B, C, H, W) -> (B, C, H, W).

    Args:
        images: any range.
        least: share of the image's area that a part has, from which to 1 it is drawn.
        rng: draws sizes and places.
    """
    side = (least + (1.0 - least) * torch.rand(len(images), generator=rng)).sqrt()
    place = (2.0 * torch.rand(2, len(images), generator=rng) - 1.0) * (1.0 - side)
    nought = torch.zeros(len(images))
    theta = torch.stack(
        [torch.stack([side, nought, place[0]], 1), torch.stack([nought, side, place[1]], 1)], 1
    ).to(images)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)
