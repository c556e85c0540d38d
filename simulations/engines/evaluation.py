"""Evaluate student, teachers and their ensemble on the pooled test data of a simulation.

Only a simulation may see all test data. Each model predicts all test images of the classes that the
student has, so that accuracies can be compared: an institution that does not know a class is wrong
about each image of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from fedkd.aggregation import fuse_with_earlier_student
from fedkd.aggregation.earlier_student_fusion import WithEarlierStudent
from fedkd.aggregation.fusion_of_cards import build_fusion
from fedkd.client.institution import institution_name, simulated_assets
from fedkd.client.vault.trained_vault import TrainedVault
from fedkd.core import Fusion, Score, recalibrated
from fedkd.core.earlier_student import TeacherCards
from fedkd.data.dataset import Dataset
from fedkd.data.datasets import open_data
from fedkd.evaluation import accuracy, predict_logits
from fedkd.experiment import Experiment
from fedkd.methods import make
from fedkd.models import EARLIER_STUDENT
from fedkd.protocol import Ask, Card, LabelSpaces, Signal, tasks_of_outputs
from fedkd.server.report.tables.predictions import TestOutputs
from fedkd.server.run.earlier_run import EarlierRun, earlier_run
from fedkd.server.run.run_recorder import Evaluation
from fedkd.simulations.engines.retrieval import evaluate_embeddings, recall_of_student
from fedkd.tasks import SeveralTasks, task_of

LOGITS = frozenset({Signal.LOGITS})
UNKNOWN = -1e4
"""Logit of a class that an institution does not know; its probability is 0."""
MAX_FUSED_LOGITS = 16_000_000
"""Most logits that are fused at once: fusion needs a few copies of them, 64 MB each."""


@lru_cache(maxsize=1)
def load_dataset(name: str, root: str | None) -> Dataset:
    """The data set of an experiment, opened once."""
    return open_data(name, root)


def student_accuracy(experiment: Experiment, student: nn.Module) -> float:
    """Accuracy of the student on all test images of its classes."""
    test = load_dataset(experiment.institutions.data, experiment.institutions.root)
    images, truth = _known_samples(LabelSpaces.of(_cards_of_student(experiment, test)), test)
    return accuracy(_logits(experiment, student, images), truth)


def student_score(experiment: Experiment, student: nn.Module) -> dict[str, float | None]:
    """The main score of the student on all test samples, see `fedkd.core.task.Task`.

    Of a grown student its accuracies on samples of old and of new classes too.
    """
    if experiment.institutions.embedding:
        return recall_of_student(experiment, student)
    test = load_dataset(experiment.institutions.data, experiment.institutions.root)
    cards = _cards_of_student(experiment, test)
    task, labels = task_of(cards), LabelSpaces.of(cards)
    samples, truth = _known_samples(labels, test)
    outputs = _logits(experiment, student, samples)
    main = cast(float | None, task.scores(outputs, truth)[task.main_score])
    grown = _grown_accuracies(earlier_run(experiment.grow), labels, outputs, truth)
    return {task.main_score: main, **grown}


def evaluate(
    experiment: Experiment, vaults: Path, cards: Sequence[Card], student: nn.Module
) -> Evaluation:
    """Scores of student, teachers and their ensemble; teachers are loaded from their vaults.

    The ensemble of a grown run is the earlier student beside the institutions.
    """
    by_task = {"embedding": evaluate_embeddings}
    judge = by_task.get(task_of(cards).kind, _evaluate_predictions)
    return judge(experiment, vaults, cards, student)


def _evaluate_predictions(
    experiment: Experiment, vaults: Path, cards: Sequence[Card], student: nn.Module
) -> Evaluation:
    """Scores of classes or of numbers."""
    test = load_dataset(experiment.institutions.data, experiment.institutions.root)
    run = earlier_run(experiment.grow)
    earlier = None if run is None else run.student()
    teachers = TeacherCards(earlier, cards)
    task, labels = task_of(teachers), LabelSpaces.of(teachers)
    as_classes = bool(test.tasks) and not labels.tasks  # institutions call them classes of one task
    if as_classes:
        labels = replace(labels, tasks=tasks_of_outputs(labels.names))
        task = SeveralTasks(labels.tasks)
    samples, truth = _known_samples(labels, test)
    outputs = {}
    count = experiment.institutions.count
    places = {institution_name(index, count): index for index in range(count)}
    for position, card in enumerate(cards):
        index = places.get(card.name, position)  # some may have been left out of the run
        vault = TrainedVault(simulated_assets(experiment, index), vaults / f"{index:04d}")
        outputs[card.name] = vault.teacher.ask(samples, LOGITS)
    spread = {n: _spread(labels, n, s[Signal.LOGITS]) for n, s in outputs.items()}
    method, questions = (
        make(experiment.method.name, experiment.method.arguments),
        experiment.questions,
    )
    fusion: Fusion = build_fusion(method.rule_for(questions.rule), cards, questions.prior)
    if earlier is not None:
        beside = method.aggregation
        level = beside.level if isinstance(beside, WithEarlierStudent) else "centred"
        fusion = fuse_with_earlier_student(earlier.card, cards, fusion, level)
        outputs[earlier.card.name] = dict(earlier.answer(Ask(samples)).signals)
    fused = _fuse_in_chunks(fusion, outputs)
    student_logits = _logits(experiment, student, samples)

    def scores_of_model(model: nn.Module) -> dict[str, Score]:
        outputs_of_model = _logits(experiment, model, samples)
        return {**task.scores(outputs_of_model, truth), **task.agreement(outputs_of_model, fused)}

    return Evaluation(
        {**task.scores(student_logits, truth), **task.agreement(student_logits, fused)},
        task.scores(fused, truth),
        {name: task.scores(own, truth) for name, own in spread.items()},
        task.recall(student_logits, truth),
        None if as_classes else TestOutputs(student_logits, fused, truth),
        score_model=scores_of_model,
        growth=_growth(run, labels, student_logits, truth, outputs),
    )


def _logits(experiment: Experiment, student: nn.Module, samples: Tensor) -> Tensor:
    """(N, K) of test images (N, C, H, W).

    Of a run by batch statistics the student has those of the test images, which takes no label.
    """
    if experiment.questions.batch_statistics:
        student = recalibrated(student, samples)
    return predict_logits(student, samples)


def _spread(labels: LabelSpaces, name: str, local: Tensor) -> Tensor:
    """Logits of an institution over all outputs: NaN in a task that it lacks."""
    union = labels.to_union(name, local, UNKNOWN)
    for at in labels.slices.values():
        if not any(at.start <= index < at.stop for index in labels.indices[name]):
            union[:, at] = torch.nan
    return union


def _growth(
    run: EarlierRun | None,
    labels: LabelSpaces,
    student: Tensor,
    truth: Tensor,
    outputs: Mapping[str, Mapping[Signal, Tensor]],
) -> dict[str, float]:
    """Accuracies of a grown student, and of the earlier one on its classes; none of others."""
    found = _grown_accuracies(run, labels, student, truth)
    if found:
        own = labels.to_union(EARLIER_STUDENT, outputs[EARLIER_STUDENT][Signal.LOGITS], UNKNOWN)
        old = torch.isin(truth, torch.tensor(labels.indices[EARLIER_STUDENT]))
        found["earlier_accuracy"] = accuracy(own[old], truth[old])
    return found


def _grown_accuracies(
    run: EarlierRun | None, labels: LabelSpaces, outputs: Tensor, truth: Tensor
) -> dict[str, float]:
    """Accuracy on samples of the earlier student's classes and of the others, among all classes."""
    if run is None:
        return {}
    old = torch.isin(truth, torch.tensor([labels.names.index(name) for name in run.classes]))
    parts = {"old_accuracy": old, "new_accuracy": ~old}
    return {n: accuracy(outputs[at], truth[at]) for n, at in parts.items() if bool(at.any())}


def _cards_of_student(experiment: Experiment, test: Dataset) -> list[Card]:
    """What the student's outputs are of: all that somebody here, or an earlier student, knows."""
    sets, names = experiment.institutions.labels, test.class_names
    if sets and experiment.institutions.present:
        taking_part = experiment.institutions.taking_part
        names = tuple({name for index in taking_part for name in sets[index % len(sets)]})
    count, numbers = len(names) or test.classes, test.numbers
    known = Card("test", count, test.shape, LOGITS, class_names=names or None, numbers=numbers)
    cards = [replace(known, tasks=test.tasks)]
    if (run := earlier_run(experiment.grow)) is not None:
        cards.append(Card("earlier", len(run.classes), test.shape, LOGITS, class_names=run.classes))
    return cards


def _known_samples(labels: LabelSpaces, test: Dataset) -> tuple[Tensor, Tensor]:
    """Test samples of the classes in ``labels``, and their truth in the order of these.

    Numbers and tasks are in the order of the student's outputs likewise.
    """
    if test.tasks:
        return test.test_images, _tasks_in_order_of(labels, test)
    if test.numbers:
        place = [labels.names.index(number.name) for number in test.numbers]
        return test.test_images, test.test_labels[:, torch.tensor(place).argsort()]
    names = test.class_names or tuple(map(str, range(test.classes)))
    at = torch.tensor([labels.names.index(n) if n in labels.names else -1 for n in names])
    truth = at[test.test_labels]
    known = truth >= 0
    return test.test_images[known], truth[known]


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
