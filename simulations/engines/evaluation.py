"""How good everybody is on the test data, which only a simulation may see all of.

Everybody is asked about all test images, so that accuracies can be compared: an institution that
does not know a class is wrong about each of its images.
"""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from fedkd.aggregation.fusion import Fusion, fusion
from fedkd.client.institution import holding
from fedkd.client.vault.vault import Vault
from fedkd.data.datasets import Dataset, open_data
from fedkd.evaluation.metrics import (
    accuracy,
    agreement,
    fidelity,
    fidelity_double_root,
    logits,
    recall,
)
from fedkd.experiment.experiment import Experiment
from fedkd.methods import make
from fedkd.protocol.label_spaces import Labels
from fedkd.protocol.signals import Card, Signal
from fedkd.server.run.recorder import Verdict

AT_ONCE = 16_000_000
"""Logits fused at once: a few copies of them, 64 MB each, are what fusing needs beside them."""


@lru_cache(maxsize=1)
def data(name: str, root: str | None) -> Dataset:
    """Data of an experiment, opened once."""
    return open_data(name, root)


def score(experiment: Experiment, student: nn.Module) -> float:
    """Accuracy of a student on all test images."""
    test = data(experiment.institutions.data, experiment.institutions.root)
    return accuracy(logits(student, test.test_images), test.test_labels)


def verdict(
    experiment: Experiment, vaults: Path, cards: Sequence[Card], student: nn.Module
) -> Verdict:
    """Accuracies of student, teachers and their ensemble; teachers come out of their vaults."""
    test = data(experiment.institutions.data, experiment.institutions.root)
    said = {}
    for index, card in enumerate(cards):
        vault = Vault.open(holding(experiment, index), vaults / f"{index:04d}")
        said[card.name] = vault.teacher.ask(test.test_images, frozenset({Signal.LOGITS}))
    method = make(experiment.method.name, experiment.method.arguments)
    fused = _fused(fusion(method.rule_for(experiment.questions.rule), cards), said)
    own = logits(student, test.test_images)
    labels = Labels.of(cards)  # somebody knows every class, so that places are the data's numbers
    return Verdict(
        accuracy(own, test.test_labels),
        accuracy(fused, test.test_labels),
        agreement(own, fused),
        {
            name: accuracy(labels.spread(name, s[Signal.LOGITS], -math.inf), test.test_labels)
            for name, s in said.items()
        },
        dict(zip(labels.names, recall(own, test.test_labels), strict=True)),
        fidelity=fidelity(own, fused),
        fidelity_double_root=fidelity_double_root(own, fused),
    )


def _fused(fuse: Fusion, said: Mapping[str, Mapping[Signal, Tensor]]) -> Tensor:
    """(N, K) of all test images; in pieces, where a thousand institutions say ten thousand each."""
    each = next(iter(said.values()))[Signal.LOGITS]  # (N, K_i)
    rows = max(1, AT_ONCE // (len(said) * each.shape[1]))
    pieces = [
        {n: {Signal.LOGITS: s[Signal.LOGITS][start : start + rows]} for n, s in said.items()}
        for start in range(0, len(each), rows)
    ]
    return torch.cat([fuse(piece)[Signal.LOGITS] for piece in pieces])
