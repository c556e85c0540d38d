"""Attributes of handwritten digits as several tasks."""

from dataclasses import replace

import torch
from torch import Tensor

from fedkd.data.dataset import Dataset
from fedkd.protocol import named_tasks, output_names_of

DIGIT_ATTRIBUTES: dict[str, tuple[tuple[str, str], frozenset[int]]] = {
    "odd": (("even", "odd"), frozenset({1, 3, 5, 7, 9})),
    "large": (("below 5", "5 or more"), frozenset({5, 6, 7, 8, 9})),
    "hole": (("no hole", "has a hole"), frozenset({0, 6, 8, 9})),
}
"""By task, its two classes, and the digits of the second one. A written 4 is mostly open."""


def with_attributes(digits: Dataset) -> Dataset:
    """Images of digits, labelled with their attributes in place of the digit."""
    tasks = named_tasks({name: classes for name, (classes, _) in DIGIT_ATTRIBUTES.items()})
    return replace(
        digits,
        name=f"{digits.name}-attributes",
        classes=len(output_names_of(tasks)),
        train_labels=attribute_labels(digits.train_labels),
        test_labels=attribute_labels(digits.test_labels),
        tasks=tasks,
    )


def attribute_labels(digits: Tensor) -> Tensor:
    """Classes of digits (N,) in each task, (N, M) int64."""
    columns = [torch.isin(digits, torch.tensor(sorted(of))) for _, of in DIGIT_ATTRIBUTES.values()]
    return torch.stack(columns, 1).long()
