"""Evaluate student, teachers and their ensemble on the pooled test data of a simulation.

Only a simulation may see all test data. Each model predicts all test images, so that accuracies can
be compared: an institution that does not know a class is wrong about each image of it.
"""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from fedkd.aggregation.fusion_rules import RuleFusion, build_fusion
from fedkd.client.institution import institution_name, simulated_assets
from fedkd.client.vault.trained_vault import TrainedVault
from fedkd.data.datasets import Dataset, open_data
from fedkd.evaluation import (
    accuracy,
    agreement,
    fidelity,
    fidelity_double_root,
    predict_logits,
    recall,
)
from fedkd.experiment import Experiment
from fedkd.methods import make
from fedkd.protocol import Card, LabelSpaces, Signal
from fedkd.server.run.run_recorder import Evaluation

MAX_FUSED_LOGITS = 16_000_000
"""Most logits that are fused at once: fusion needs a few copies of them, 64 MB each."""


@lru_cache(maxsize=1)
def load_dataset(name: str, root: str | None) -> Dataset:
    """The data set of an experiment, opened once."""
    return open_data(name, root)


def student_accuracy(experiment: Experiment, student: nn.Module) -> float:
    """Accuracy of the student on all test images."""
    test = load_dataset(experiment.institutions.data, experiment.institutions.root)
    return accuracy(predict_logits(student, test.test_images), test.test_labels)


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
        build_fusion(method.rule_for(experiment.questions.rule), cards), outputs
    )
    student_logits = predict_logits(student, test.test_images)
    # Every class is known to some institution, so columns are the data's class numbers.
    labels = LabelSpaces.of(cards)
    return Evaluation(
        accuracy(student_logits, test.test_labels),
        accuracy(fused, test.test_labels),
        agreement(student_logits, fused),
        {
            name: accuracy(labels.to_union(name, s[Signal.LOGITS], -math.inf), test.test_labels)
            for name, s in outputs.items()
        },
        dict(zip(labels.names, recall(student_logits, test.test_labels), strict=True)),
        fidelity=fidelity(student_logits, fused),
        fidelity_double_root=fidelity_double_root(student_logits, fused),
    )


def _fuse_in_chunks(fuse: RuleFusion, outputs: Mapping[str, Mapping[Signal, Tensor]]) -> Tensor:
    """Fused logits (N, K) of all test images, computed in chunks to bound memory."""
    each = next(iter(outputs.values()))[Signal.LOGITS]  # (N, K_i)
    rows = max(1, MAX_FUSED_LOGITS // (len(outputs) * each.shape[1]))
    pieces = [
        {n: {Signal.LOGITS: s[Signal.LOGITS][start : start + rows]} for n, s in outputs.items()}
        for start in range(0, len(each), rows)
    ]
    return torch.cat([fuse(piece)[Signal.LOGITS] for piece in pieces])
