"""Evaluate student, teachers and their ensemble on the pooled test data of a simulation.

Only a simulation may see all test data. Each model predicts all test images, so that accuracies can
be compared: an institution that does not know a class is wrong about each image of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from fedkd.aggregation.fusion_of_cards import build_fusion
from fedkd.client.institution import institution_name, simulated_assets
from fedkd.client.vault.trained_vault import TrainedVault
from fedkd.core import Fusion, Score, recalibrated
from fedkd.data.dataset import Dataset
from fedkd.data.datasets import open_data
from fedkd.evaluation import accuracy, predict_logits
from fedkd.experiment import Experiment
from fedkd.methods import make
from fedkd.protocol import Card, LabelSpaces, Signal, tasks_of_outputs
from fedkd.server.report.tables.predictions import TestOutputs
from fedkd.server.run.run_recorder import Evaluation
from fedkd.simulations.engines.retrieval import evaluate_embeddings, recall_of_student
from fedkd.tasks import SeveralTasks, task_of

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
    truth = _in_order_of(LabelSpaces.of(_as_cards(test)), test)
    return accuracy(_logits(experiment, student, test), truth)


def student_score(experiment: Experiment, student: nn.Module) -> dict[str, float | None]:
    """The main score of the student on all test samples, see `fedkd.core.task.Task`."""
    if experiment.institutions.embedding:
        return recall_of_student(experiment, student)
    test = load_dataset(experiment.institutions.data, experiment.institutions.root)
    outputs = _logits(experiment, student, test)
    cards = _as_cards(test)
    task = task_of(cards)
    scores = task.scores(outputs, _in_order_of(LabelSpaces.of(cards), test))
    return {task.main_score: cast(float | None, scores[task.main_score])}


def evaluate(
    experiment: Experiment, vaults: Path, cards: Sequence[Card], student: nn.Module
) -> Evaluation:
    """Scores of student, teachers and their ensemble; teachers are loaded from their vaults."""
    by_task = {"embedding": evaluate_embeddings}
    judge = by_task.get(task_of(cards).kind, _evaluate_predictions)
    return judge(experiment, vaults, cards, student)


def _evaluate_predictions(
    experiment: Experiment, vaults: Path, cards: Sequence[Card], student: nn.Module
) -> Evaluation:
    """Scores of classes or of numbers."""
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
    student_logits = _logits(experiment, student, test)
    task, labels = task_of(cards), LabelSpaces.of(cards)
    as_classes = bool(test.tasks) and not labels.tasks  # institutions call them classes of one task
    if as_classes:
        labels = replace(labels, tasks=tasks_of_outputs(labels.names))
        task = SeveralTasks(labels.tasks)
    truth = _in_order_of(labels, test)
    spread = {n: _spread(labels, n, s[Signal.LOGITS]) for n, s in outputs.items()}

    def scores_of_model(model: nn.Module) -> dict[str, Score]:
        outputs_of_model = _logits(experiment, model, test)
        return {**task.scores(outputs_of_model, truth), **task.agreement(outputs_of_model, fused)}

    return Evaluation(
        {**task.scores(student_logits, truth), **task.agreement(student_logits, fused)},
        task.scores(fused, truth),
        {name: task.scores(own, truth) for name, own in spread.items()},
        task.recall(student_logits, truth),
        None if as_classes else TestOutputs(student_logits, fused, truth),
        score_model=scores_of_model,
    )


def _logits(experiment: Experiment, student: nn.Module, test: Dataset) -> Tensor:
    """(N, K) of all test images.

    Of a run by batch statistics the student has those of the test images, which takes no label.
    """
    if experiment.questions.batch_statistics:
        student = recalibrated(student, test.test_images)
    return predict_logits(student, test.test_images)


def _as_cards(test: Dataset) -> list[Card]:
    """Of one institution that knows all that is labelled in ``test``."""
    names, numbers = test.class_names or None, test.numbers
    known = Card("test", test.classes, test.shape, frozenset(), class_names=names, numbers=numbers)
    return [replace(known, tasks=test.tasks)]


def _spread(labels: LabelSpaces, name: str, local: Tensor) -> Tensor:
    """Logits of an institution over all outputs: NaN in a task that it lacks."""
    union = labels.to_union(name, local, UNKNOWN)
    for at in labels.slices.values():
        if not any(at.start <= index < at.stop for index in labels.indices[name]):
            union[:, at] = torch.nan
    return union


def _in_order_of(labels: LabelSpaces, test: Dataset) -> Tensor:
    """The truth of all test samples, with classes or numbers in the order of the student's outputs.

    Every class is known to some institution.
    """
    if test.tasks:
        return _tasks_in_order_of(labels, test)
    names = tuple(number.name for number in test.numbers) or test.class_names
    if not names:
        return test.test_labels
    place = [labels.names.index(name) for name in names]
    if test.numbers:
        return test.test_labels[:, torch.tensor(place).argsort()]
    return torch.tensor(place)[test.test_labels]


def _tasks_in_order_of(labels: LabelSpaces, test: Dataset) -> Tensor:
    """The truth of several tasks, (N, M): of those that the student has, in its order."""
    of_data = {task.name: place for place, task in enumerate(test.tasks)}
    columns = []
    for task in labels.tasks:
        place = of_data[task.name]
        own = torch.tensor([task.class_names.index(n) for n in test.tasks[place].class_names])
        columns.append(own[test.test_labels[:, place]])
    return torch.stack(columns, 1)


def _fuse_in_chunks(fuse: Fusion, outputs: Mapping[str, Mapping[Signal, Tensor]]) -> Tensor:
    """Fused logits (N, K) of all test images, computed in chunks to bound memory."""
    each = next(iter(outputs.values()))[Signal.LOGITS]  # (N, K_i)
    rows = max(1, MAX_FUSED_LOGITS // (len(outputs) * each.shape[1]))
    pieces = [
        {n: {Signal.LOGITS: s[Signal.LOGITS][start : start + rows]} for n, s in outputs.items()}
        for start in range(0, len(each), rows)
    ]
    return torch.cat([fuse(piece)[Signal.LOGITS] for piece in pieces])
