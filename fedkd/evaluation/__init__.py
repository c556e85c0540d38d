"""Evaluation metrics of a student: accuracy, agreement, fidelity, training stability."""
