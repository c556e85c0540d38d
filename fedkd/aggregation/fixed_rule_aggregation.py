"""Aggregation by a fusion rule, by name: fixed, or with reliability where the rule is "auto"."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedkd.aggregation.fusion_rules import RuleFusion, cached_fusion
from fedkd.aggregation.reliability_weighted import ReliabilityWeightedAggregation
from fedkd.core.interfaces import Aggregation, Context, Stateless
from fedkd.core.source_types import Proposal
from fedkd.protocol import Answers, Card, LabelSpaces


@dataclass(frozen=True, eq=False)
class ByRule:
    """The settings: a fusion rule by name, see `fedkd.aggregation.fusion_rules`.

    Attributes:
        rule: in use where a plan leaves it at "auto".
    """

    rule: str = "auto"

    def rule_for(self, planned: str) -> str:
        """The plan's rule, or its own where that is "auto"."""
        return self.rule if planned == "auto" else planned

    def with_rule(self, rule: str) -> "ByRule":
        """The same with that rule."""
        return replace(self, rule=rule)

    def build(self, context: Context) -> Aggregation:
        """The part: a fixed rule where one is named; "auto" learns besides who is reliable."""
        if self.rule == "auto":
            return ReliabilityWeightedAggregation("auto", context.plan.capacity, context.record)
        return RuleAggregation(self.rule)


class RuleAggregation(Stateless):
    """Fuses by one rule.

    Args:
        rule: its name.
    """

    def __init__(self, rule: str) -> None:
        self.rule = rule

    def fusion(self, cards: Sequence[Card]) -> RuleFusion:
        """Of whoever takes part by now."""
        return cached_fusion(self.rule, tuple(cards))

    def hear(
        self, answers: Answers, labels: LabelSpaces, selected: Tensor | None, proposal: Proposal
    ) -> None:
        """A rule learns nothing."""

    def improve(self, rng: torch.Generator) -> Tensor | None:
        """Nor does it change a target."""
        return None
