"""Tasks: what teachers predict, and so what the student's loss and scores are."""

from fedkd.tasks.classification import Classification
from fedkd.tasks.embedding import Embedding
from fedkd.tasks.regression import REGRESSION_LOSSES, Regression
from fedkd.tasks.released_scores import (
    NumberSums,
    ReleasedScore,
    TaskCounts,
    number_sums,
    pooled_number_scores,
    pooled_task_accuracies,
    released_score,
    task_counts,
)
from fedkd.tasks.several_tasks import SeveralTasks
from fedkd.tasks.task_of_cards import task_of

__all__ = [
    "REGRESSION_LOSSES",
    "Classification",
    "Embedding",
    "NumberSums",
    "Regression",
    "ReleasedScore",
    "SeveralTasks",
    "TaskCounts",
    "number_sums",
    "pooled_number_scores",
    "pooled_task_accuracies",
    "released_score",
    "task_counts",
    "task_of",
]
