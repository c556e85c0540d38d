"""Teachers that answer by the statistics of each batch."""

import copy

import pytest
import torch
from torch import Tensor, nn

from fedkd.errors import NeedsError
from fedkd.models import CHUNK, ModuleTeacher, ScikitTeacher, build_network, by_batch_statistics
from fedkd.protocol import Signal

LOGITS = frozenset({Signal.LOGITS})


def images(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    built = build_network("cnn", 10, (1, 8, 8), 0).train()
    for seed in range(20):
        built(images(32, 100 + seed) ** 4)
    return built.eval()


def test_it_answers_as_the_network_does_in_training(network: nn.Module) -> None:
    by_running = ModuleTeacher(network, 10)
    by_batch = by_batch_statistics(by_running)
    assert by_batch is not None
    count = CHUNK + 7  # one piece, whatever its size
    with torch.no_grad():
        expected = copy.deepcopy(network).train()(images(count))
    answers = by_batch.ask(images(count), LOGITS)[Signal.LOGITS]
    assert torch.allclose(answers, expected, atol=1e-4)
    before = by_running.ask(images(8), LOGITS)[Signal.LOGITS]
    assert torch.equal(before, ModuleTeacher(network, 10).ask(images(8), LOGITS)[Signal.LOGITS])
    assert not torch.allclose(by_batch.ask(images(8), LOGITS)[Signal.LOGITS], answers[:8])


def test_gradients_go_through_the_statistics(network: nn.Module) -> None:
    by_batch = by_batch_statistics(ModuleTeacher(network, 10))
    assert by_batch is not None
    cotangent = torch.randn(6, 10, generator=torch.Generator().manual_seed(1))
    leaf = images(6).requires_grad_()
    (copy.deepcopy(network).train()(leaf) * cotangent).sum().backward()
    pulled = by_batch.pull_back(images(6), {Signal.LOGITS: cotangent})
    assert leaf.grad is not None
    assert torch.allclose(pulled, leaf.grad, atol=1e-4)


def test_there_is_no_distance_from_statistics_that_are_not_kept(network: nn.Module) -> None:
    by_batch = by_batch_statistics(ModuleTeacher(network, 10))
    assert by_batch is not None
    assert Signal.BN_GAP not in by_batch.signals
    with pytest.raises(NeedsError, match="cannot compute bn_gap"):
        by_batch.ask(images(4), frozenset({Signal.BN_GAP}))


def test_without_batch_norm_there_is_none() -> None:
    plain = build_network("cnn-groupnorm", 10, (1, 8, 8), 0)
    assert by_batch_statistics(ModuleTeacher(plain, 10)) is None
    assert by_batch_statistics(ScikitTeacher(object(), 10)) is None
