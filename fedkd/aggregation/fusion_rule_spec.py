"""Settings of an aggregation by a fusion rule: fixed, or with reliability where it is "auto"."""

from dataclasses import dataclass, replace

from fedkd.aggregation.fixed_rule_aggregation import RuleAggregation
from fedkd.aggregation.logit_adjustment import refuse_prior
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
        capacity, prior = context.plan.capacity, context.plan.prior
        if self.rule != "auto":
            return RuleAggregation(self.rule, capacity, prior=prior)
        if context.task.kind == "numbers":
            refuse_prior(prior, "these teachers predict numbers")
            return ReliableNumberAggregation(capacity, context.record)
        return ReliabilityWeightedAggregation("auto", capacity, context.record, prior=prior)
