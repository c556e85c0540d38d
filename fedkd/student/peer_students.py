"""Peers: an ensemble of independently initialised networks, trained on the student's batches.

Terms may compare them with the student, and a surrogate ensemble may be made of them. Source:
DisGUIDE (Rosenthal et al., AAAI 2023).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedkd.core.checkpoint_state import Part, State, gather, scatter
from fedkd.core.interfaces import BaseStudentPart, Context
from fedkd.core.source_types import AnsweredBatch
from fedkd.errors import SettingsError
from fedkd.losses import Batch
from fedkd.models import reinitialised
from fedkd.student.training import Trainer


@dataclass(frozen=True, eq=False)
class Peers:
    """The settings.

    Attributes:
        count: networks beside the student, >= 1.
    """

    count: int

    def __post_init__(self) -> None:
        if self.count < 1:
            raise SettingsError(f"peers: {self.count}; expected >= 1")

    def build(self, context: Context) -> "TrainedPeers":
        """The part."""
        return TrainedPeers(self, context)


class TrainedPeers(BaseStudentPart):
    """Networks, each with its trainer.

    Args:
        settings: how many.
        context: whose student they are like.
    """

    def __init__(self, settings: Peers, context: Context) -> None:
        self._context = context
        self._trainers = [
            Trainer(
                reinitialised(context.student, context.seed + 1 + i),
                context.loss,
                context.sample_weights,
                context.plan,
                context.compute,
            )
            for i in range(settings.count)
        ]

    def follow(self, images: Tensor, target: Tensor, taken: int, progress: float) -> None:
        """Each takes the student's step, with losses and weights of its own."""
        for trainer in self._trainers:
            trainer.learn(images, target, taken, progress)

    def observe(self, batch: Batch, answered: AnsweredBatch | None, rng: torch.Generator) -> Tensor:
        """Logits of the student and all peers, (M, B, K), differentiable in the images."""
        compute = self._context.compute
        own = [compute.frozen_logits(network, batch.images) for network in self.networks]
        return torch.stack([batch.student, *own])

    def stepped(self) -> None:
        """Peers learn from the bank, not from a generator's terms."""

    def finish(self, images: Tensor) -> None:
        """Nor from its batches."""

    @property
    def networks(self) -> list[torch.nn.Module]:
        """In the order of their seeds."""
        return [trainer.network for trainer in self._trainers]

    def state(self) -> State:
        """Weights and momenta."""
        return gather(self._parts, {})

    def restore(self, state: State) -> None:
        """Be again as when ``state`` was taken."""
        scatter(state, self._parts)

    @property
    def _parts(self) -> dict[str, Part]:
        each = enumerate(self._trainers)
        return {
            name: part
            for i, trainer in each
            for name, part in ((f"{i}", trainer.network), (f"{i}.optimizer", trainer.optimizer))
        }
