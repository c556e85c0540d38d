"""Tasks: what teachers predict, and so what the student's loss and scores are."""

from fedkd.tasks.classification import Classification
from fedkd.tasks.regression import REGRESSION_LOSSES, Regression
from fedkd.tasks.released_scores import (
    NumberSums,
    ReleasedScore,
    number_sums,
    pooled_number_scores,
    released_score,
)
from fedkd.tasks.task_of_cards import task_of

__all__ = [
    "REGRESSION_LOSSES",
    "Classification",
    "NumberSums",
    "Regression",
    "ReleasedScore",
    "number_sums",
    "pooled_number_scores",
    "released_score",
    "task_of",
]
