"""Aggregation: the replies of T institutions become one distillation target.

By a fixed fusion rule, or by weights that are learned; and which samples enter the bank.
"""

from fedkd.aggregation.fusion_of_cards import build_fusion, cached_fusion
from fedkd.aggregation.fusion_rule_spec import ByRule
from fedkd.aggregation.fusion_rules import RULES, RuleFusion, weighted_mean
from fedkd.aggregation.learned_weights import LearnedWeights
from fedkd.aggregation.log_linear_pool import log_linear_pool
from fedkd.aggregation.sample_selection import confident
from fedkd.aggregation.side_by_side import SideBySide, side_by_side

__all__ = [
    "RULES",
    "ByRule",
    "LearnedWeights",
    "RuleFusion",
    "SideBySide",
    "build_fusion",
    "cached_fusion",
    "confident",
    "log_linear_pool",
    "side_by_side",
    "weighted_mean",
]
