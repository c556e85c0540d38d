"""Instance discrimination by the teacher's features, which one institution alone can release.

Source: CMI (Fang et al., IJCAI 2021).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedkd.core.checkpoint_state import State, gather, scatter
from fedkd.core.interfaces import Context
from fedkd.core.source_types import AnsweredBatch
from fedkd.losses.term import Batch
from fedkd.protocol import Signal
from fedkd.synthesis.auxiliary_networks.instance_discriminator import (
    ContrastSettings,
    cropped,
    discrimination,
    projection,
)


@dataclass(frozen=True, eq=False)
class TeacherInstanceDiscriminator(ContrastSettings):
    """The settings of one that compares the teacher's features."""

    def build(self, context: Context) -> "TrainedTeacherInstanceDiscriminator":
        """The auxiliary network."""
        return TrainedTeacherInstanceDiscriminator(self, context.seed, context.compute.device)


class TrainedTeacherInstanceDiscriminator:
    """A small network over the teacher's features, and those of images of earlier batches.

    A teacher does not change, so features are remembered and not images.

    Args:
        how: the settings.
        seed: of the first weights.
        device: on which it lies.
    """

    def __init__(self, how: TeacherInstanceDiscriminator, seed: int, device: torch.device) -> None:
        self.how, self._seed, self._device = how, seed, device
        self._head: nn.Module | None = None
        self._optimizer: torch.optim.Adam | None = None
        self._before = torch.empty(0, 2, 0)
        self._now = self._before

    def views(self, images: Tensor, rng: torch.Generator) -> Tensor | None:
        """A square part of each image."""
        return cropped(images, self.how.crop, rng)

    def observe(self, batch: Batch, answered: AnsweredBatch | None, rng: torch.Generator) -> Tensor:
        """`loss` of the features of the batch's images and of their views; 0 where none came."""
        views = batch.views.get(id(self.how))
        if views is None:
            return batch.images.new_zeros(())
        return self.loss(views, batch.teacher[Signal.FEATURES], rng)

    def loss(self, views: Tensor, whole: Tensor, rng: torch.Generator) -> Tensor:
        """How hard it is to tell which image a view of it shows, (); low is distinct.

        See `fedkd.synthesis.auxiliary_networks.instance_discriminator.discrimination`; features of
        earlier batches are compared too.

        Args:
            views: (B, D), the teacher's features of a view of each image.
            whole: (B, D), of the images.
            rng: draws those from before.
        """
        head = self._parts_for(views.shape[1])[0]
        sample = torch.randperm(len(self._before), generator=rng)[: self.how.negatives]
        before = self._before[sample].to(views.device)
        self._now = torch.stack([whole, views], 1).detach().cpu()

        def compared(own: Tensor, place: int) -> Tensor:
            earlier = before[:, place].reshape(-1, own.shape[1])
            return F.normalize(head(torch.cat([own, earlier])), dim=1)

        now, tau = len(views), self.how.temperature
        return discrimination(compared(views, 1), compared(whole.detach(), 0), now, tau)

    def stepped(self) -> None:
        """A step along the gradients that `loss` has left."""
        if self._optimizer is not None:
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)

    def finish(self, images: Tensor) -> None:
        """Keep the features of the finished batch; the oldest give way."""
        if not len(self._now):
            return
        kept = self._before.reshape(-1, 2, self._now.shape[2])
        self._before = torch.cat([kept, self._now])[-self.how.capacity :]
        self._now = self._now[:0]

    def state(self) -> State:
        """Its network, momenta, and the features that it keeps."""
        own = {"before": self._before.clone(), "now": self._now.clone()}
        parts: dict[str, nn.Module | torch.optim.Optimizer] = {}
        if self._head is not None and self._optimizer is not None:
            parts = {"head": self._head, "optimizer": self._optimizer}
        state = gather(parts, {"size": self._now.shape[2]})
        return State({**state.tensors, **own}, state.numbers)

    def restore(self, state: State) -> None:
        """Be again as when ``state`` was taken."""
        if size := int(state.numbers[""]["size"]):
            head, optimizer = self._parts_for(size)
            scatter(state, {"head": head, "optimizer": optimizer})
        self._before, self._now = state.tensors["before"].clone(), state.tensors["now"].clone()

    def _parts_for(self, size: int) -> tuple[nn.Module, torch.optim.Adam]:
        """Network and optimiser; made when the first answer tells how wide features are."""
        if self._head is None or self._optimizer is None:
            self._head = projection(size, self.how.width, self._seed).to(self._device)
            self._optimizer = torch.optim.Adam(self._head.parameters(), self.how.rate)
        return self._head, self._optimizer
