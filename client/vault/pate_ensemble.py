"""The voters of PATE as one teacher. Knows neither images nor how the voters came about.

The exact votes are no answer that may leave; noise is added elsewhere.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from fedkd.errors import NeedsError
from fedkd.models.teacher import Teacher, must_know
from fedkd.protocol.signals import Signal


@dataclass(frozen=True)
class Committee:
    """Voters, as one teacher whose logits are counts of votes: exact, so not to be told as such."""

    voters: Sequence[Teacher | None] = field(repr=False)
    """None: it has too few images to be taught, and casts no vote."""
    classes: int

    signals = frozenset({Signal.LOGITS})
    differentiable = False

    def votes(self, images: Tensor) -> Tensor:
        """How many name each class, (B, K) int64; a voter that fails casts no vote."""
        total = torch.zeros(len(images), self.classes + 1, dtype=torch.int64)
        for voter in self.voters:
            total += F.one_hot(self._vote(voter, images), self.classes + 1)
        return total[:, : self.classes]

    def ask(self, images: Tensor, signals: frozenset[Signal]) -> dict[Signal, Tensor]:
        """See `fedkd.models.teacher.Teacher.ask`."""
        must_know(signals, self.signals)
        return {signal: self.votes(images).float() for signal in signals}

    def pull_back(self, images: Tensor, cotangents: Mapping[Signal, Tensor]) -> Tensor:
        """Always raises.

        Raises:
            NeedsError: votes have no gradient.
        """
        raise NeedsError("votes have no gradient; choose a method that pulls nothing back")

    def _vote(self, voter: Teacher | None, images: Tensor) -> Tensor:
        """(B,) classes; K where there is no vote."""
        nobody = torch.full((len(images),), self.classes)
        if voter is None:
            return nobody
        try:
            said = voter.ask(images, self.signals)[Signal.LOGITS]
            return torch.where(said.isfinite().all(1), said.argmax(1), nobody)
        except Exception:
            # One voter's failure must not become the whole committee's, nor be told.
            return nobody
