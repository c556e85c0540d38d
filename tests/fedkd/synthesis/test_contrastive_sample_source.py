"""Contrastive samples: images of the bank moved apart in the features of the primer."""

import math

import pytest
import torch
from torch import Tensor, nn

from fedkd.core.augmentation import jittered
from fedkd.core.bank import Bank
from fedkd.core.schedules import constant
from fedkd.core.source_types import Turn
from fedkd.errors import SettingsError
from fedkd.losses import contrastive_loss
from fedkd.student.primer_student import Primer
from fedkd.synthesis import ContrastiveSamples
from fedkd.synthesis.contrastive_sample_source import JITTER, MovedApart
from tests.support.contexts import context_of

SHAPE = (1, 6, 6)
PRIMER = Primer(0.5, 1.0, constant(1.0))


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.Tanh(), nn.Linear(16, 4))


def source_of(bank: Bank, **settings: float) -> MovedApart:
    context = context_of(network(0), SHAPE, 4, bank=bank)
    spec = ContrastiveSamples(PRIMER, **{"steps": 20, "rate": 0.02, **settings})  # type: ignore[arg-type]
    source = context.part(spec)
    assert source.primer is context.part(PRIMER).network  # the one that the student learns from
    return source


def greys(count: int = 64) -> Bank:
    bank = Bank()
    images = torch.randint(90, 110, (count, *SHAPE), generator=rng(1), dtype=torch.uint8)
    bank.add(images, torch.zeros(count, 4))
    return bank


def test_images_are_moved_apart_and_asked_about_as_new_ones() -> None:
    bank = greys()
    contrasted = source_of(bank)

    def apart(images: Tensor) -> float:
        with torch.no_grad():
            x = images.float() / 255
            here = contrasted.discriminator(contrasted._features(x))
            views = jittered(x, JITTER, True, rng(9))
            there = contrasted.discriminator(contrasted._features(views))
            return float(contrastive_loss(here, there))

    before, _ = bank.draw(32, rng(2))
    proposal = contrasted.propose(Turn(32, rng(2), 0.0))
    assert proposal is not None
    assert proposal.origin == "contrast"
    assert proposal.images.dtype == torch.uint8
    assert apart(proposal.images) < apart(before) - 0.1
    assert float(bank.fresh(proposal.images).float().mean()) > 0.9


@pytest.mark.parametrize(("banked", "count"), [(1, 1), (1, 8), (64, 1), (5, 8)])
def test_never_more_is_proposed_than_is_wanted_nor_one_image_compared_with_none(
    banked: int, count: int
) -> None:
    proposal = source_of(greys(banked), steps=2).propose(Turn(count, rng(2), 0.0))
    assert proposal is not None
    assert len(proposal.images) == min(count, max(2, banked))
    assert 80 <= int(proposal.images.min()) <= int(proposal.images.max()) <= 120  # two small steps


def test_its_discriminator_is_set_back() -> None:
    one, other = source_of(greys()), source_of(greys())
    one.propose(Turn(8, rng(2), 0.0))
    other.restore(one.state())
    first, second = (each.propose(Turn(8, rng(3), 0.0)) for each in (one, other))
    assert first is not None
    assert second is not None
    assert torch.equal(first.images, second.images)


@pytest.mark.parametrize(
    ("steps", "rate"), [(0, 0.1), (1, 0.0), (1, -0.1), (1, math.inf), (1, math.nan)]
)
def test_numbers_out_of_range_are_refused(steps: int, rate: float) -> None:
    with pytest.raises(SettingsError, match=r"contrastive samples: .* expected >= 1 and > 0"):
        ContrastiveSamples(PRIMER, steps, rate)
