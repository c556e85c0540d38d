"""Batch norm by the statistics of a batch, and statistics that are taken anew."""

import copy

import pytest
import torch
from torch import Tensor, nn

from fedkd.core import evaluated_by_batch_statistics, recalibrated
from fedkd.core.device import CPU, Compute
from fedkd.errors import DataError
from fedkd.models import build_network

SHAPE = (1, 8, 8)


def images(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


def network(name: str = "cnn") -> nn.Module:
    """A network with statistics of dark images, and dropout behind it."""
    built = nn.Sequential(build_network(name, 5, SHAPE, 0), nn.Dropout(0.5)).train()
    for seed in range(20):
        built(images(32, 100 + seed) ** 4)
    return built.eval()


def state(of: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(of.state_dict())


def test_a_batch_is_normalised_by_itself_and_nothing_is_kept() -> None:
    of, before = network(), state(network())
    expected = copy.deepcopy(of)
    expected[0].train()  # type: ignore[index]
    with torch.no_grad():
        by_running = of(images(16))
        with evaluated_by_batch_statistics(of):
            by_batch = of(images(16))
        wanted = expected(images(16))
        assert torch.allclose(by_batch, wanted, atol=1e-6)
        assert not torch.allclose(by_batch, by_running, atol=1e-2)
        assert torch.equal(of(images(16)), by_running)
    assert all(torch.equal(value, before[name]) for name, value in of.state_dict().items())
    assert not any(module.training for module in of.modules())


def test_frozen_logits_go_by_the_batch_where_that_is_set() -> None:
    of = network()
    with evaluated_by_batch_statistics(of):
        expected = of(images(16))
    leaf = images(16).requires_grad_()
    logits = Compute(batch_statistics=True).frozen_logits(of, leaf)
    assert torch.allclose(logits, expected, atol=1e-6)
    logits.square().sum().backward()
    assert leaf.grad is not None
    assert not torch.allclose(CPU.frozen_logits(of, images(16)), expected, atol=1e-2)


def test_recalibrated_is_as_good_as_the_batch_and_leaves_the_original() -> None:
    of, before = network(), state(network())
    anew = recalibrated(of, (images(64) * 255).round().to(torch.uint8))
    with torch.no_grad(), evaluated_by_batch_statistics(of):
        expected = of((images(64) * 255).round() / 255)
    with torch.no_grad():
        # Running variances are those of a sample, with one less in the denominator.
        assert torch.allclose(anew((images(64) * 255).round() / 255), expected, atol=1e-2)
    assert all(torch.equal(value, before[name]) for name, value in of.state_dict().items())
    assert not any(module.training for module in anew.modules())
    norms = [m for m in anew.modules() if isinstance(m, nn.BatchNorm2d)]
    assert [m.momentum for m in norms] == [0.1] * len(norms)


def test_many_images_are_taken_in_parts_of_one_size() -> None:
    whole, parts = (recalibrated(network(), images(90), at_once=n) for n in (90, 30))
    for one, other in zip(whole.modules(), parts.modules(), strict=True):
        if isinstance(one, nn.BatchNorm2d):
            assert int(one.num_batches_tracked) == 1
            assert int(other.num_batches_tracked) == 3
            assert torch.allclose(one.running_mean, other.running_mean, atol=0.1)


def test_a_network_without_batch_norm_stays_what_it_is() -> None:
    of = network("cnn-groupnorm")
    with torch.no_grad(), evaluated_by_batch_statistics(of):
        assert torch.equal(of(images(9)), recalibrated(of, images(9))(images(9)))


def test_one_image_has_no_statistics() -> None:
    with pytest.raises(DataError, match="statistics of 1 samples; bring two at least"):
        recalibrated(network(), images(1))
