"""Evaluate student, teachers and their ensemble on the pooled test data of a simulation.

Only a simulation may see all test data. Each model predicts all test images, so that accuracies can
be compared: an institution that does not know a class is wrong about each image of it.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from fedkd.aggregation.fusion_rules import build_fusion
from fedkd.client.institution import institution_name, simulated_assets
from fedkd.client.vault.trained_vault import TrainedVault
from fedkd.core import Fusion
from fedkd.data.dataset import Dataset
from fedkd.data.datasets import open_data
from fedkd.evaluation import accuracy, predict_logits, r2_score, recall
from fedkd.experiment import Experiment
from fedkd.methods import make
from fedkd.protocol import Card, LabelSpaces, Signal
from fedkd.server.report.tables.predictions import TestOutputs
from fedkd.server.run.run_recorder import Evaluation
from fedkd.tasks import task_of

UNKNOWN = -1e4
"""Logit of a class that an institution does not know; its probability is 0."""
MAX_FUSED_LOGITS = 16_000_000
"""Most logits that are fused at once: fusion needs a few copies of them, 64 MB each."""


@lru_cache(maxsize=1)
def load_dataset(name: str, root: str | None) -> Dataset:
    """The data set of an experiment, opened once."""
    return open_data(name, root)


def student_accuracy(experiment: Experiment, student: nn.Module) -> float:
    """Accuracy of the student on all test images."""
    test = load_dataset(experiment.institutions.data, experiment.institutions.root)
    truth = _in_order_of(_label_spaces(test), test)
    return accuracy(predict_logits(student, test.test_images), truth)


def student_score(experiment: Experiment, student: nn.Module) -> dict[str, float | None]:
    """Accuracy of the student on all test samples, or R^2 where it predicts numbers."""
    test = load_dataset(experiment.institutions.data, experiment.institutions.root)
    outputs = predict_logits(student, test.test_images)
    truth = _in_order_of(_label_spaces(test), test)
    if test.numbers:
        return {"r2": r2_score(outputs, truth)}
    return {"accuracy": accuracy(outputs, truth)}


def evaluate(
    experiment: Experiment, vaults: Path, cards: Sequence[Card], student: nn.Module
) -> Evaluation:
    """Accuracies of student, teachers and their ensemble; teachers are loaded from their vaults."""
    test = load_dataset(experiment.institutions.data, experiment.institutions.root)
    outputs = {}
    count = experiment.institutions.count
    places = {institution_name(index, count): index for index in range(count)}
    for position, card in enumerate(cards):
        index = places.get(card.name, position)  # some may have been left out of the run
        vault = TrainedVault(simulated_assets(experiment, index), vaults / f"{index:04d}")
        outputs[card.name] = vault.teacher.ask(test.test_images, frozenset({Signal.LOGITS}))
    method = make(experiment.method.name, experiment.method.arguments)
    fused = _fuse_in_chunks(
        build_fusion(method.rule_for(experiment.questions.rule), cards, experiment.questions.prior),
        outputs,
    )
    student_logits = predict_logits(student, test.test_images)
    task, labels = task_of(cards), LabelSpaces.of(cards)
    truth = _in_order_of(labels, test)
    spread = {n: labels.to_union(n, s[Signal.LOGITS], UNKNOWN) for n, s in outputs.items()}

    def scores_of_model(model: nn.Module) -> dict[str, float | None]:
        outputs_of_model = predict_logits(model, test.test_images)
        return {**task.scores(outputs_of_model, truth), **task.agreement(outputs_of_model, fused)}

    return Evaluation(
        {**task.scores(student_logits, truth), **task.agreement(student_logits, fused)},
        task.scores(fused, truth),
        {name: task.scores(own, truth) for name, own in spread.items()},
        None
        if test.numbers
        else dict(zip(labels.names, recall(student_logits, truth), strict=True)),
        TestOutputs(student_logits, fused, truth),
        score_model=scores_of_model,
    )


def _label_spaces(test: Dataset) -> LabelSpaces:
    """The order of a student's outputs where institutions together know all classes of ``test``."""
    names, numbers = test.class_names or None, test.numbers
    return LabelSpaces.of(
        [Card("test", test.classes, test.shape, frozenset(), class_names=names, numbers=numbers)]
    )


def _in_order_of(labels: LabelSpaces, test: Dataset) -> Tensor:
    """The truth of all test samples, with classes or numbers in the order of the student's outputs.

    Every class is known to some institution.
    """
    names = tuple(number.name for number in test.numbers) or test.class_names
    if not names:
        return test.test_labels
    place = [labels.names.index(name) for name in names]
    if test.numbers:
        return test.test_labels[:, torch.tensor(place).argsort()]
    return torch.tensor(place)[test.test_labels]


def _fuse_in_chunks(fuse: Fusion, outputs: Mapping[str, Mapping[Signal, Tensor]]) -> Tensor:
    """Fused logits (N, K) of all test images, computed in chunks to bound memory."""
    each = next(iter(outputs.values()))[Signal.LOGITS]  # (N, K_i)
    rows = max(1, MAX_FUSED_LOGITS // (len(outputs) * each.shape[1]))
    pieces = [
        {n: {Signal.LOGITS: s[Signal.LOGITS][start : start + rows]} for n, s in outputs.items()}
        for start in range(0, len(each), rows)
    ]
    return torch.cat([fuse(piece)[Signal.LOGITS] for piece in pieces])
