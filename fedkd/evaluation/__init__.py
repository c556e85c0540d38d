"""Evaluation metrics of a student: accuracy, recall, R^2, agreement, fidelity, stability.

They read logits and labels; nothing here opens data.
"""

from fedkd.evaluation.metrics import (
    TrainingStability,
    accuracy,
    agreement,
    auroc,
    balanced_accuracy,
    class_entropy,
    expected_calibration_error,
    fidelity,
    fidelity_double_root,
    js_divergence,
    kl_divergence,
    predict_logits,
    r2_score,
    recall,
    soft_calibration_error,
    training_stability,
)
from fedkd.evaluation.retrieval import (
    cross_relations,
    recall_among,
    recall_at,
    relation_correlation,
    relation_error,
)
from fedkd.evaluation.time_to_score import ScoreDuringRun, time_to_score

__all__ = [
    "ScoreDuringRun",
    "TrainingStability",
    "accuracy",
    "agreement",
    "auroc",
    "balanced_accuracy",
    "class_entropy",
    "cross_relations",
    "expected_calibration_error",
    "fidelity",
    "fidelity_double_root",
    "js_divergence",
    "kl_divergence",
    "predict_logits",
    "r2_score",
    "recall",
    "recall_among",
    "recall_at",
    "relation_correlation",
    "relation_error",
    "soft_calibration_error",
    "time_to_score",
    "training_stability",
]
