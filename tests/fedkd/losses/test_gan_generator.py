"""What a generator hears of a discriminator: HiDFD's realness, as a whole and class by class."""

import pytest
import torch
from torch import Tensor

from fedkd.errors import SettingsError
from fedkd.losses import Batch, adversarial_realness, classwise_realness
from fedkd.synthesis.auxiliary_networks.gan_discriminator import Verdict

B, K = 6, 3
SPEC = object()


def verdict() -> Verdict:
    draw = torch.Generator().manual_seed(0)
    return Verdict(*(torch.randn(size, generator=draw) for size in [(B,), (B, 2 * K), (B, K)]))


def batch(read: Verdict, targets: Tensor | None = None) -> Batch:
    images = torch.zeros(B, 1, 2, 2)
    return Batch(images, {}, torch.zeros(B, K), class_targets=targets, readings={id(SPEC): read})


def test_realness_is_minus_the_mean_score_and_asks_nobody() -> None:
    read, term = verdict(), adversarial_realness(SPEC)
    assert float(term.value(batch(read))) == pytest.approx(-sum(read.score.tolist()) / B)
    assert (term.needs, term.reads) == (frozenset(), (SPEC,))


def test_classwise_realness_is_how_much_rather_the_class_is_seen_as_generated() -> None:
    read, targets, total = verdict(), torch.tensor([0, 1, 2, 2, 1, 0]), 0.0
    for row, y in zip(read.class_by_side.tolist(), targets.tolist(), strict=True):
        total += row[2 * y + 1] - row[2 * y]  # log p(y, generated) - log p(y, public)
    term = classwise_realness(SPEC)
    assert float(term.value(batch(read, targets))) == pytest.approx(total / B, rel=1e-5)
    assert (term.needs, term.reads) == (frozenset(), (SPEC,))


def test_classwise_realness_needs_class_targets() -> None:
    with pytest.raises(SettingsError, match=r"classwise_realness needs images .* for a class"):
        classwise_realness(SPEC).value(batch(verdict()))
