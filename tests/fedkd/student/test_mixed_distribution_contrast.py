"""MixDistribution: moments of the mixed image, and a contrast that pulls both views together."""

import pytest
import torch
from torch import nn

from fedkd.core.bank import Bank
from fedkd.errors import SettingsError
from fedkd.student.mixed_distribution_contrast import (
    PAIRS,
    ContrastedViews,
    MixedDistributionContrast,
    mixed_distribution,
)
from fedkd.student.training import Trainer
from tests.support.contexts import context_of

SHAPE, K = (2, 6, 6), 4


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(72, 16), nn.Tanh(), nn.Linear(16, K))


def test_mean_and_deviation_are_mixed_and_the_rest_stays() -> None:
    x = 0.4 + 0.05 * torch.rand(3, *SHAPE, generator=rng(0), dtype=torch.float64)
    x[1] = 0.3 + 2 * (x[1] - 0.4)
    others, share = torch.tensor([1, 2, 0]), torch.tensor([0.25, 1.0, 0.0], dtype=torch.float64)
    mixed = mixed_distribution(x, others, share)
    for i, (other, kept) in enumerate(zip(others.tolist(), share.tolist(), strict=True)):
        mean = kept * x[i].mean((1, 2)) + (1 - kept) * x[other].mean((1, 2))
        assert torch.allclose(mixed[i].mean((1, 2)), mean)
        deviation = [each.std((1, 2), correction=0) for each in (x[i], x[other])]
        expected = kept * deviation[0] + (1 - kept) * deviation[1]
        assert torch.allclose(mixed[i].std((1, 2), correction=0), expected, atol=1e-3)
    assert torch.allclose(mixed[1], x[1])


def test_mixed_images_stay_in_range_and_plain_ones_stay_finite() -> None:
    x = torch.cat([torch.zeros(1, *SHAPE), torch.ones(1, *SHAPE), torch.rand(2, *SHAPE)])
    mixed = mixed_distribution(x, torch.tensor([3, 2, 0, 1]), torch.tensor([0.5, 0.0, 0.1, 0.9]))
    assert bool(mixed.isfinite().all())
    assert 0 <= float(mixed.min()) <= float(mixed.max()) <= 1


def built(weight: float = 1.0) -> tuple[ContrastedViews, Trainer, Bank]:
    bank = Bank()
    images = torch.randint(0, 256, (60, *SHAPE), generator=rng(1), dtype=torch.uint8)
    bank.add(images, torch.randn(60, K, generator=rng(2)))
    context = context_of(network(), SHAPE, K, bank=bank)
    part = context.part(MixedDistributionContrast(weight))
    trainer = Trainer(
        context.student, context.loss, context.sample_weights, context.plan, parts=(part,)
    )
    return part, trainer, bank


def test_its_mean_is_that_of_the_contrasted_samples() -> None:
    part, trainer, bank = built()
    images = bank.images[: PAIRS + 8]
    value = part.term(images, trainer.logits(images), 0.0)
    assert value is not None
    assert value.shape == (PAIRS + 8,)
    assert not bool(value[PAIRS:].any())
    assert bool((value[:PAIRS] > 0).all())
    assert built(0.0)[0].term(images, trainer.logits(images), 0.0) is None


def test_student_and_embedding_learn_from_it_and_go_on_from_a_state() -> None:
    part, trainer, bank = built()
    before = part.embedding.weight.detach().clone()
    for step in range(3):
        trainer.step(bank, rng(step), step, 0.0)
    assert not torch.equal(part.embedding.weight, before)
    other, again, _ = built()
    again.network.load_state_dict(trainer.network.state_dict())
    again.optimizer.load_state_dict(trainer.optimizer.state_dict())
    other.restore(part.state())
    one, two = (each.step(bank, rng(9), 3, 0.0)[0] for each in (trainer, again))
    assert torch.equal(one, two)
    assert torch.equal(part.embedding.weight, other.embedding.weight)


def test_settings_out_of_range_are_told() -> None:
    for wrong in ({"weight": -1.0}, {"temperature": 0.0}, {"concentration": 0.0}):
        with pytest.raises(SettingsError, match="expected >= 0, > 0 and > 0"):
            MixedDistributionContrast(**wrong)
