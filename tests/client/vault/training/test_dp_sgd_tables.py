"""A private training on rows: each is clipped, levels included; classes and numbers are learned."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedkd.client.vault.trained_vault import TrainedVault
from fedkd.client.vault.training.dp_sgd import DpSgdTraining, SquaredError, train_with_dp_sgd
from fedkd.client.vault.training.settings import DpSgdSettings
from fedkd.client.vault.vault_settings import Assets
from fedkd.data.datasets import open_data
from fedkd.errors import SettingsError
from fedkd.evaluation import accuracy, predict_logits, r2_score
from fedkd.models import build_table_network
from fedkd.protocol import Column

COLUMNS = (Column("x"), Column("ward", levels=("a", "b", "c")), Column("y"))
SETTINGS = DpSgdSettings(epsilon=8.0, epochs=20, sampling_rate=0.1, accountant="rdp")


def clipped_sum(network: nn.Module, x: Tensor, y: Tensor, bound: float) -> Tensor:
    """The sum of clipped gradients, row by row, (P,)."""
    total = torch.zeros(sum(p.numel() for p in network.parameters()))
    for row, target in zip(x, y, strict=True):
        out = network(row[None])
        loss = F.cross_entropy(out, target[None]) if y.dim() == 1 else (out - target).pow(2).mean()
        own = torch.cat([g.flatten() for g in torch.autograd.grad(loss, network.parameters())])
        total += own * min(1.0, bound / float(own.norm()))
    return total


@pytest.mark.parametrize("numbers", [False, True])
@pytest.mark.parametrize("clipping", [0.05, 100.0])
def test_no_row_adds_more_than_the_bound(clipping: float, numbers: bool) -> None:
    rng = torch.Generator().manual_seed(0)
    x = torch.rand(30, 1, 1, 3, generator=rng)
    y = torch.rand(30, 2, generator=rng) if numbers else torch.arange(30) % 2
    network = build_table_network("table-mlp", 2, COLUMNS, 0)
    exact = clipped_sum(network, x, y, clipping)
    loss = SquaredError() if numbers else None
    training = DpSgdTraining(network, replace(SETTINGS, clipping=clipping), loss)
    training._optimiser.noise_multiplier = 1e-9
    training.step(x, y)
    found = torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])
    torch.testing.assert_close(found, exact, atol=1e-4, rtol=1e-3)


def test_classes_of_rows_are_learned_with_the_guarantee() -> None:
    data = open_data("table:breast-cancer")
    train = (data.train_images, data.train_labels, 2)
    teacher, promised = train_with_dp_sgd(
        "table-mlp", *train, SETTINGS, 0, columns=data.columns, numbers=data.numbers
    )
    assert 7.9 < promised.epsilon <= 8.0
    assert promised.unit == "one training row"
    assert accuracy(predict_logits(teacher.module, data.test_images), data.test_labels) > 0.85


def test_numbers_of_rows_are_learned() -> None:
    data = open_data("table:friedman")
    columns, keep = data.columns[:5], (slice(None), slice(None), slice(None), slice(0, 5))
    settings = replace(SETTINGS, epsilon=50.0, epochs=40)
    teacher, _ = train_with_dp_sgd(
        *("table-mlp", data.train_images[keep], data.train_labels, 1, settings, 0),
        columns=columns,
        numbers=data.numbers,
    )
    predicted = predict_logits(teacher.module, data.test_images[keep])
    assert r2_score(predicted, data.test_labels) > 0.3


def test_an_estimator_is_refused_and_a_vault_serves_the_network() -> None:
    assets = Assets("table:wine", model="table-mlp-small", dp_training=SETTINGS)
    vault = TrainedVault(assets)
    assert vault.guarantee is not None
    assert vault.guarantee.implies(8.0, SETTINGS.delta)
    assert vault.teacher.ask(torch.rand(3, 1, 1, 13), vault.teacher.signals)
    trees = TrainedVault(replace(assets, model="sklearn:RandomForest"))
    with pytest.raises(SettingsError, match="cannot be trained privately; choose table-mlp"):
        _ = trees.teacher
