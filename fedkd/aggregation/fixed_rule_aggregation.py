"""Aggregation by a fixed fusion rule; every institution's logits are kept, to fuse them again.

So an institution whose answers turn out to be wrong can be excluded from all targets afterwards.
"""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from fedkd.aggregation.banked_logits import BankedLogits
from fedkd.aggregation.fusion_of_cards import cached_fusion
from fedkd.core.checkpoint_state import State
from fedkd.core.run_plan import AUTO, ClassPrior
from fedkd.core.source_types import Fusion, Proposal
from fedkd.protocol import Answers, Card, LabelSpaces, Signal
from fedkd.tasks import task_of

MAX_FUSED_LOGITS = 16_000_000
"""Most logits that are fused at once, 64 MB."""


class RuleAggregation:
    """Fuses by one rule.

    Args:
        rule: its name, see `fedkd.aggregation.fusion_rules`.
        capacity: of the bank; None: it keeps all.
        prior: class prior of the targets, see `fedkd.aggregation.logit_adjustment`.
        silence: in a target of which nobody's answer is left: by it nothing is known, as by zeros
            in logits.
    """

    def __init__(
        self,
        rule: str,
        capacity: int | None,
        *,
        prior: ClassPrior = AUTO,
        silence: float = 0.0,
    ) -> None:
        self.rule, self.prior, self._silence = rule, prior, silence
        self._kept = BankedLogits(capacity, torch.float16)
        self._cards: tuple[Card, ...] = ()

    def fusion(self, cards: Sequence[Card]) -> Fusion:
        """Of whoever takes part by now."""
        self._cards = tuple(cards)
        return cached_fusion(self.rule, self._cards, self.prior)

    def hear(
        self, answers: Answers, labels: LabelSpaces, selected: Tensor | None, proposal: Proposal
    ) -> None:
        """Keep each institution's logits of what the bank keeps."""
        largest = torch.finfo(torch.float16).max
        logits = {
            name: reply.signals[Signal.LOGITS].clamp(-largest, largest)
            for name, reply in answers.items()
        }
        self._kept.add(logits, selected)

    def improve(self, rng: torch.Generator) -> Tensor | None:
        """A fixed rule changes no target."""
        return None

    def exclude(self, names: Collection[str], cards: Sequence[Card]) -> Tensor | None:
        """Forget the answers of ``names``; all targets without them, (N, K); None: none is kept."""
        self._cards = tuple(cards)
        self._kept.drop(names)
        return self.targets() if len(self._kept) else None

    def __len__(self) -> int:
        """N, samples of which answers are kept."""
        return len(self._kept)

    def targets(self) -> Tensor:
        """(N, K), the fused logits of all that is banked, oldest first.

        ``silence`` where only excluded institutions answered.
        """
        fusion = self.fusion(self._cards)
        width = task_of(self._cards).target_width
        targets = torch.full((len(self._kept), width), self._silence)
        rows = max(1, MAX_FUSED_LOGITS // (width * len(self._cards)))
        for at, logits in self._kept.by_presence([card.name for card in self._cards], rows):
            if logits:
                signals = {name: {Signal.LOGITS: own} for name, own in logits.items()}
                targets[at] = fusion(signals)[Signal.LOGITS]
        return targets

    def state(self) -> State:
        """All logits that are kept."""
        return self._kept.state()

    def restore(self, state: State) -> None:
        """Fuse again as when ``state`` was taken."""
        self._kept.restore(state)
