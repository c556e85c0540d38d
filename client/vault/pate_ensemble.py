"""PATE ensemble: teachers of disjoint data as one teacher whose logits are counts of votes.

The exact counts must not leave the institution; `fedkd.client.release.pate` adds the noise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from fedkd.errors import NeedsError
from fedkd.models import Teacher, require_signals
from fedkd.protocol import Signal


@dataclass(frozen=True)
class PateEnsemble:
    """Teachers that vote, as one teacher. Its counts are exact, so they may not be released."""

    voters: Sequence[Teacher | None] = field(repr=False)
    """None: too few samples to train on; it casts no vote."""
    classes: int

    signals = frozenset({Signal.LOGITS})
    differentiable = False

    def votes(self, images: Tensor) -> Tensor:
        """Votes for each class, (B, K) int64; a voter that fails casts no vote."""
        total = torch.zeros(len(images), self.classes + 1, dtype=torch.int64)
        for voter in self.voters:
            total += F.one_hot(self._vote(voter, images), self.classes + 1)
        return total[:, : self.classes]

    def ask(self, images: Tensor, signals: frozenset[Signal]) -> dict[Signal, Tensor]:
        """See `fedkd.models.teacher.Teacher.ask`."""
        require_signals(signals, self.signals)
        return {signal: self.votes(images).float() for signal in signals}

    def pull_back(self, images: Tensor, cotangents: Mapping[Signal, Tensor]) -> Tensor:
        """Always raises.

        Raises:
            NeedsError: votes have no gradient.
        """
        raise NeedsError("votes have no gradient; choose a method that pulls nothing back")

    def _vote(self, voter: Teacher | None, images: Tensor) -> Tensor:
        """(B,) classes; K where there is no vote."""
        no_vote = torch.full((len(images),), self.classes)
        if voter is None:
            return no_vote
        try:
            logits = voter.ask(images, self.signals)[Signal.LOGITS]
            return torch.where(logits.isfinite().all(1), logits.argmax(1), no_vote)
        except Exception:
            # One voter's failure must neither fail the ensemble nor become visible.
            return no_vote
