"""Scores of a simulation, on test data whose classes and numbers have names."""

import torch
from torch import Tensor, nn

from fedkd.experiment import load_experiment
from fedkd.simulations.engines.evaluation import load_dataset, student_accuracy, student_score


class Oracle(nn.Module):
    """Knows the test data by heart, and answers with outputs in the order of their names."""

    def __init__(self, rows: Tensor, outputs: Tensor) -> None:
        super().__init__()
        self.rows, self.outputs = rows.flatten(1), outputs

    def forward(self, images: Tensor) -> Tensor:
        return self.outputs[torch.cdist(images.flatten(1), self.rows).argmin(1)]


def test_the_student_is_scored_in_the_order_of_its_own_classes() -> None:
    experiment = load_experiment(
        "diabetes", ["institutions.data=table:breast-cancer", "institutions.partition=iid"]
    )
    data = load_dataset("table:breast-cancer", None)
    names = sorted(data.class_names)
    assert names != list(data.class_names), "else the order would not matter"
    place = torch.tensor([names.index(name) for name in data.class_names])
    answers = nn.functional.one_hot(place[data.test_labels], len(names)).float()
    student = Oracle(data.test_images, answers)
    assert student_accuracy(experiment, student) == 1.0
    assert student_score(experiment, student) == {"accuracy": 1.0}


def test_a_student_of_numbers_is_scored_by_r2() -> None:
    experiment = load_experiment("diabetes", [])
    data = load_dataset("table:diabetes", None)
    student = Oracle(data.test_images, data.test_labels)
    assert student_score(experiment, student) == {"r2": 1.0}
