"""Pool of public samples: a source that asks about them, all of them or under a selection rule."""

from fedkd.synthesis.public_pool.public_samples import PublicPool, PublicSamples
from fedkd.synthesis.public_pool.selection_rules import (
    SELECTION_RULES,
    PoolView,
    SelectionRule,
    confident_by_class,
    least_confident_by_class,
    near_prototypes,
    random_choice,
    rule_named,
)

__all__ = [
    "SELECTION_RULES",
    "PoolView",
    "PublicPool",
    "PublicSamples",
    "SelectionRule",
    "confident_by_class",
    "least_confident_by_class",
    "near_prototypes",
    "random_choice",
    "rule_named",
]
