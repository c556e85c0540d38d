"""Settings of an aggregation by a fusion rule: fixed, or with reliability where it is "auto".

Of several tasks each is aggregated so, by itself.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from fedkd.aggregation.fixed_rule_aggregation import RuleAggregation
from fedkd.aggregation.logit_adjustment import refuse_prior
from fedkd.aggregation.number_fusion import UNKNOWN
from fedkd.aggregation.per_task_aggregation import PerTaskAggregation
from fedkd.aggregation.reliability.reliability_weighted import ReliabilityWeightedAggregation
from fedkd.aggregation.reliability.reliable_number_aggregation import ReliableNumberAggregation
from fedkd.core.interfaces import Aggregation, Context, Record
from fedkd.protocol import tasks_of_outputs


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
        return _BUILDERS[context.task.kind](self.rule, context)


def _of_classes(
    rule: str, context: Context, record: Record, silence: float = 0.0
) -> RuleAggregation:
    capacity, prior = context.plan.capacity, context.plan.prior
    if rule != "auto":
        return RuleAggregation(rule, capacity, prior=prior, silence=silence)
    return ReliabilityWeightedAggregation(rule, capacity, record, prior=prior, silence=silence)


def _classes(rule: str, context: Context) -> Aggregation:
    return _of_classes(rule, context, context.record)


def _numbers(rule: str, context: Context) -> Aggregation:
    capacity, prior = context.plan.capacity, context.plan.prior
    if rule != "auto":
        return RuleAggregation(rule, capacity, prior=prior, silence=UNKNOWN)
    refuse_prior(prior, "these teachers predict numbers")
    return ReliableNumberAggregation(capacity, context.record)


def _tasks(rule: str, context: Context) -> Aggregation:
    def of_task(record: Record) -> RuleAggregation:
        return _of_classes(rule, context, record, math.nan)

    tasks = tasks_of_outputs(context.task.names)
    return PerTaskAggregation(tasks, of_task, rule, context.plan.prior, context.record)


def _embeddings(rule: str, context: Context) -> Aggregation:
    return RuleAggregation(rule, context.plan.capacity, prior=context.plan.prior)


_BUILDERS: dict[str, Callable[[str, Context], Aggregation]] = {
    "classes": _classes,
    "numbers": _numbers,
    "tasks": _tasks,
    "embedding": _embeddings,
}
"""By kind of task."""
