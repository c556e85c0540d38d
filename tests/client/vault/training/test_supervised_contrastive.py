"""The supervised contrastive loss is its formula, and a vault trains an embedding by it."""

import math

import pytest
import torch

from fedkd.client.institution.institution import Institution
from fedkd.client.vault.trained_vault import TrainedVault
from fedkd.client.vault.training.settings import DpSgdSettings, SupervisedSettings
from fedkd.client.vault.training.supervised_contrastive import (
    TEMPERATURE,
    supervised_contrastive,
)
from fedkd.client.vault.vault_settings import Assets
from fedkd.data.datasets import open_data
from fedkd.errors import SettingsError
from fedkd.privacy import Budget, Policy
from fedkd.protocol import Ask, Reply, Signal

LABELS = torch.tensor([0, 0, 1, 0, 2])
FEW = SupervisedSettings(epochs=2, batch=64)
RELATIONS, FEATURES = Signal.RELATIONS, Signal.FEATURES


def test_the_loss_is_the_formula() -> None:
    outputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).double()
    z = outputs / outputs.norm(dim=1, keepdim=True)
    each = []
    for i in range(5):
        alike = [p for p in range(5) if p != i and LABELS[p] == LABELS[i]]
        below = sum(math.exp(float(z[i] @ z[a]) / TEMPERATURE) for a in range(5) if a != i)
        logs = [float(z[i] @ z[p]) / TEMPERATURE - math.log(below) for p in alike]
        if logs:
            each.append(-sum(logs) / len(logs))
    found = supervised_contrastive(outputs, LABELS)
    assert float(found) == pytest.approx(sum(each) / len(each))
    assert float(supervised_contrastive(outputs, torch.arange(5))) == 0


@pytest.fixture(scope="module")
def vault() -> TrainedVault:
    return TrainedVault(Assets(index=1, count=6, embedding=8, gallery=300, training=FEW))


def test_the_card_says_how_wide_the_embedding_is(vault: TrainedVault) -> None:
    signals = frozenset({RELATIONS, FEATURES, Signal.LOGITS})
    institution = Institution("north", vault, Policy(signals, scores=True))
    card = institution.card
    assert (card.embedding, card.classes) == (True, 8)
    assert (card.class_names, card.class_counts) == (None, None)
    assert card.signals == {RELATIONS, FEATURES}
    said = institution.answer(Ask(torch.rand(5, 1, 8, 8), frozenset({FEATURES, RELATIONS})))
    assert isinstance(said, Reply)
    assert {s: tuple(t.shape) for s, t in said.signals.items()} == {
        FEATURES: (5, 8),
        RELATIONS: (5, 5),
    }
    correct, examples = vault.score(vault._trained[0].module)  # type: ignore[attr-defined]
    assert examples == 60
    assert correct > 20  # of ten classes, by chance 6


def test_nobody_has_the_gallery(vault: TrainedVault) -> None:
    whole = open_data("digits", None)
    others = [
        TrainedVault(Assets(index=index, count=6, embedding=8, gallery=300, training=FEW))
        for index in range(6)
    ]
    assert sum(len(own.fingerprints) for own in others) == len(whole.train_labels) - 300


@pytest.mark.parametrize(
    "policy",
    [
        Policy(mode="local-dp", budget=Budget(8.0, 1e-5), samples=10),
        Policy(mode="pate", budget=Budget(8.0, 1e-5), samples=10),
        Policy(top_k=2),
    ],
    ids=["local-dp", "pate", "top_k"],
)
def test_a_policy_of_logits_is_refused(vault: TrainedVault, policy: Policy) -> None:
    with pytest.raises(SettingsError, match="embedding"):
        Institution("north", vault, policy)


def test_a_promise_by_training_is_refused() -> None:
    with pytest.raises(SettingsError, match="pairs"):
        Assets(embedding=8, dp_training=DpSgdSettings(8.0))
    with pytest.raises(SettingsError, match="images of one task"):
        TrainedVault(Assets(embedding=8, model="sklearn:SVC", training=FEW)).check_model()
