"""Settings of an aggregation by a fusion rule: fixed, or with reliability where it is "auto"."""

from dataclasses import dataclass, replace

from fedkd.aggregation.fixed_rule_aggregation import RuleAggregation
from fedkd.aggregation.reliability_weighted import ReliabilityWeightedAggregation
from fedkd.aggregation.reliable_number_aggregation import ReliableNumberAggregation
from fedkd.core.interfaces import Aggregation, Context


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
        if self.rule != "auto":
            return RuleAggregation(self.rule, context.plan.capacity)
        if context.task.kind == "numbers":
            return ReliableNumberAggregation(context.plan.capacity, context.record)
        return ReliabilityWeightedAggregation("auto", context.plan.capacity, context.record)
