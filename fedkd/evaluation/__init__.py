"""Evaluation metrics of a student: accuracy, recall, agreement, fidelity, stability.

They read logits and labels; nothing here opens data.
"""

from fedkd.evaluation.metrics import (
    TrainingStability,
    accuracy,
    agreement,
    class_entropy,
    fidelity,
    fidelity_double_root,
    js_divergence,
    predict_logits,
    recall,
    training_stability,
)

__all__ = [
    "TrainingStability",
    "accuracy",
    "agreement",
    "class_entropy",
    "fidelity",
    "fidelity_double_root",
    "js_divergence",
    "predict_logits",
    "recall",
    "training_stability",
]
