"""Evaluation metrics of a student: accuracy, recall, agreement, fidelity, stability.

They read logits and labels; nothing here opens data.
"""

from fedkd.evaluation.metrics import (
    Course,
    accuracy,
    agreement,
    course,
    divergence,
    fidelity,
    fidelity_double_root,
    logits,
    recall,
)

__all__ = [
    "Course",
    "accuracy",
    "agreement",
    "course",
    "divergence",
    "fidelity",
    "fidelity_double_root",
    "logits",
    "recall",
]
