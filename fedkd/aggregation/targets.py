"""Replies become targets in the bank. Knows who takes part and how they are fused; asks nobody."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fedkd.aggregation.fusion import Fusion, fusion_of
from fedkd.aggregation.learned_weights import Weights
from fedkd.core.bank import Bank
from fedkd.core.compute import MEMORY
from fedkd.core.plan import Plan
from fedkd.core.state import Part
from fedkd.errors import QuorumLost
from fedkd.methods.method import Method
from fedkd.protocol import Answers, Card, Signal, label_spaces_of


class Hearing:
    """The bank, and what makes one target of what several institutions say.

    Args:
        method: whose selection, rule, inflation and boosting count.
        plan: capacity and rule.
        cards: of the institutions; read at every question, since some may join.
        device: of the bank.
    """

    def __init__(
        self, method: Method, plan: Plan, cards: Sequence[Card], device: torch.device = MEMORY
    ) -> None:
        self.method, self.plan, self.cards = method, plan, cards
        self.bank = Bank(plan.capacity, device)
        self.weights = Weights(method.boosting, plan.capacity) if method.boosting else None

    @property
    def parts(self) -> dict[str, Part]:
        """All of it that changes, by the name that it has in a state."""
        parts: dict[str, Part] = {"bank": self.bank}
        return parts | ({"weights": self.weights} if self.weights else {})

    @property
    def fusion(self) -> Fusion:
        """Of whoever takes part by now."""
        fusion = fusion_of(self.method.rule_for(self.plan.rule), tuple(self.cards))
        if self.weights is None:
            return fusion
        return replace(fusion, weights=self.weights.of([card.name for card in self.cards]))

    @torch.no_grad()
    def hear(
        self, images: Tensor, origin: str, answers: Answers, wanted: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Put what was said into the bank.

        Args:
            images: (B, C, H, W) uint8, as they were asked.
            origin: who drew them.
            answers: to them.
            wanted: (B,) classes, where weights are to be learned on these images.

        Returns:
            The target (B, K), and which images were selected (B,), None for all.

        Raises:
            QuorumLost: nobody said anything.
        """
        if not answers:
            raise QuorumLost("nobody answered a question; bring institutions back, or ask less")
        target = self.fusion.of(answers)[Signal.LOGITS]
        selected = self.method.selection(target) if self.method.selection else None
        times = self.method.inflation if origin == "collected" else 1
        self.bank.add(images, target, selected, times)
        if self.weights:
            logits = {n: reply.signals[Signal.LOGITS].float() for n, reply in answers.items()}
            labels = label_spaces_of(tuple(self.cards))
            spread = {name: labels.to_union(name, own, 0.0) for name, own in logits.items()}
            self.weights.hear(spread, selected, wanted)
        return target, selected

    def weigh(self, rng: torch.Generator) -> Mapping[str, float]:
        """Learn the weights of institutions anew, and fuse by them all that the bank has.

        Returns the weights, none where the method has none.
        """
        if self.weights is None:
            return {}
        self.weights.learn(rng)
        self.bank.retarget(self.weights.targets())
        return dict(self.weights.weights)
