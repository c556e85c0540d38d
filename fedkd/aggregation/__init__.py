"""Aggregation: the replies of T institutions become one distillation target.

By a fixed fusion rule, or by weights that are learned; and which samples enter the bank.
"""

from fedkd.aggregation.earlier_student_fusion import WithEarlierStudent, fuse_with_earlier_student
from fedkd.aggregation.fusion_of_cards import build_fusion, cached_fusion
from fedkd.aggregation.fusion_rule_spec import ByRule
from fedkd.aggregation.fusion_rules import RULES, RuleFusion, weighted_mean
from fedkd.aggregation.learned_weights import LearnedWeights
from fedkd.aggregation.log_linear_pool import log_linear_pool
from fedkd.aggregation.sample_selection import confident

__all__ = [
    "RULES",
    "ByRule",
    "LearnedWeights",
    "RuleFusion",
    "WithEarlierStudent",
    "build_fusion",
    "cached_fusion",
    "confident",
    "fuse_with_earlier_student",
    "log_linear_pool",
    "weighted_mean",
]
