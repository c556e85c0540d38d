"""Aggregation by a rule, with reliability that is estimated again as samples come.

What an estimate is, of classes or of numbers, is the subclass's. Here is when it is made, and that
a changed one gives new targets of everything that is banked.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from fedkd.aggregation.fixed_rule_aggregation import RuleAggregation
from fedkd.core.interfaces import Record
from fedkd.core.run_plan import AUTO, ClassPrior
from fedkd.core.source_types import Proposal
from fedkd.protocol import Answers, Card, LabelSpaces, Signal

LEAST_SAMPLES = 256
"""Samples before the first estimate."""
SAMPLES_BETWEEN = 256
"""Least samples from one estimate to the next."""
SHARE_BETWEEN = 1 / 20
"""And at least this share of the samples so far: fusing all targets again takes time."""
WINDOW = 1024
"""Samples that one estimate is made from."""


class PeriodicReliability(RuleAggregation, ABC):
    """Estimates reliability again each time that enough samples have come.

    Args:
        rule: its name.
        capacity: of the bank; None: it keeps all.
        record: gets every estimate.
        prior: see `RuleAggregation`.
        silence: likewise.
    """

    def __init__(
        self,
        rule: str,
        capacity: int | None,
        record: Record | None = None,
        *,
        prior: ClassPrior = AUTO,
        silence: float = 0.0,
    ) -> None:
        super().__init__(rule, capacity, prior=prior, silence=silence)
        self._record = record
        self._heard = self._estimated = 0

    @property
    @abstractmethod
    def _estimate_so_far(self) -> object:
        """What the last estimate found, to be compared with the next."""

    @abstractmethod
    def _estimate(self) -> None:
        """Estimate reliability from what is banked, which is at least one sample."""

    def hear(
        self, answers: Answers, labels: LabelSpaces, selected: Tensor | None, proposal: Proposal
    ) -> None:
        """Keep each institution's answers of what the bank keeps, and count the samples."""
        super().hear(answers, labels, selected, proposal)
        self._heard += len(next(iter(answers.values())).signals[Signal.LOGITS])

    def improve(self, rng: torch.Generator) -> Tensor | None:
        """Where an estimate is due and changes something, all targets by it, (N, K)."""
        wait = max(SAMPLES_BETWEEN, int(self._heard * SHARE_BETWEEN))
        if self._heard < LEAST_SAMPLES or self._heard - self._estimated < wait:
            return None
        self._estimated, before = self._heard, self._estimate_so_far
        self._estimate()
        return None if before == self._estimate_so_far else self.targets()

    def exclude(self, names: Collection[str], cards: Sequence[Card]) -> Tensor | None:
        """Forget the answers of ``names``; all targets by a new estimate of the others."""
        self._cards = tuple(cards)
        self._kept.drop(names)
        if not len(self._kept):
            return None
        if self._heard >= LEAST_SAMPLES:
            self._estimated = self._heard
            self._estimate()
        return self.targets()
