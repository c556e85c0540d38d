"""Distillation losses of a student against their formulas."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fedkd.errors import SettingsError
from fedkd.losses import (
    DISTILLATION_LOSSES,
    PerSlice,
    cross_entropy,
    kl_divergence,
    l1_centred,
    loss_named,
    squared_centred,
)


def random_logits(seed: int) -> Tensor:
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(seed)).double() * 3


@pytest.mark.parametrize("loss", [l1_centred, squared_centred])
def test_an_offset_of_all_classes_says_nothing(loss: object) -> None:
    student, teacher = random_logits(4), random_logits(5)
    shift = torch.arange(6.0).double()[:, None]
    assert torch.allclose(loss(student + shift, teacher), loss(student, teacher))  # type: ignore[operator]


def test_centred_losses_are_means_over_classes() -> None:
    student, target = torch.tensor([[3.0, -1.0]]), torch.tensor([[0.0, 0.0]])
    assert l1_centred(student, target).tolist() == [2.0]
    assert squared_centred(student, target).tolist() == [4.0]


def test_cross_entropy_hears_the_decision_and_nothing_else() -> None:
    student, target = random_logits(4), random_logits(5)
    expected = [-float(s.log_softmax(0)[t.argmax()]) for s, t in zip(student, target, strict=True)]
    assert cross_entropy(student, target).tolist() == pytest.approx(expected)
    assert torch.equal(cross_entropy(student, target), cross_entropy(student, 9 * target + 1))


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_divergence_at_no_temperature_is_refused(temperature: float) -> None:
    with pytest.raises(SettingsError, match="expected a finite temperature > 0"):
        kl_divergence(temperature)


def test_divergence_is_zero_at_equality_and_scales_with_temperature_squared() -> None:
    student, teacher = random_logits(6), random_logits(7)
    assert torch.allclose(kl_divergence(4.0)(teacher, teacher), torch.zeros(6).double(), atol=1e-12)
    p, q = (teacher / 4).softmax(1), (student / 4).softmax(1)
    expected = 16 * (p * (p / q).log()).sum(1)
    assert torch.allclose(kl_divergence(4.0)(student, teacher), expected)


def test_losses_go_by_their_names() -> None:
    assert set(DISTILLATION_LOSSES) == {"l1_centred", "squared_centred", "kl", "cross_entropy"}
    for loss in (l1_centred, squared_centred, cross_entropy):
        assert loss_named(loss.__name__) is loss
    student, target = random_logits(4), random_logits(5)
    assert torch.equal(loss_named("kl")(student, target), kl_divergence(4.0)(student, target))
    with pytest.raises(SettingsError, match="unknown distillation loss 'l2'; choose one of l1_cen"):
        loss_named("l2")


def test_a_loss_per_slice_is_the_weighted_sum_of_divergences_within_each() -> None:
    student, teacher = random_logits(4), random_logits(5)
    old, new = [0, 2], [1, 2, 3]  # they share a class, and lie in no order
    loss = PerSlice(kl_divergence(2.0), (1.0, 0.5)).over([old, new])
    expected = torch.zeros(6).double()
    for weight, at in ((1.0, old), (0.5, new)):
        for row in range(6):
            p, q = (each[row, at] / 2 for each in (teacher, student))
            kl = F.kl_div(q.log_softmax(0), p.softmax(0), reduction="sum")
            expected[row] += weight * 4 * kl
    assert torch.allclose(loss(student, teacher), expected)


def test_no_slice_minds_the_level_of_another() -> None:
    student, teacher = random_logits(4), random_logits(5)
    loss = PerSlice(kl_divergence(4.0), (1.0, 1.0)).over([(0, 1), (2, 3)])
    lifted = teacher + torch.tensor([7.0, 7.0, 0.0, 0.0]).double()
    assert torch.allclose(loss(student, lifted), loss(student, teacher))
    assert not torch.allclose(kl_divergence(4.0)(student, lifted), loss(student, teacher))


def test_the_level_of_slices_is_held_at_the_targets() -> None:
    student, teacher = random_logits(4), random_logits(5)
    slices = [(0, 1), (2, 3)]
    plain = PerSlice(kl_divergence(4.0), (1.0, 1.0)).over(slices)(student, teacher)
    held = PerSlice(kl_divergence(4.0), (1.0, 1.0), 3.0).over(slices)(student, teacher)
    apart = student - teacher
    step = apart[:, :2].mean(1) - apart[:, 2:].mean(1)
    assert torch.allclose(held - plain, 3 * step.square() / 2)
    replayed = PerSlice(kl_divergence(4.0), (0.0, 1.0), 3.0).over(slices)(student, teacher)
    alone = PerSlice(kl_divergence(4.0), (0.0, 1.0)).over(slices)(student, teacher)
    assert torch.equal(replayed, alone)
    with pytest.raises(SettingsError, match="level of slices"):
        PerSlice(l1_centred, level=-1.0)


def test_a_slice_without_weight_pulls_at_none_of_its_outputs() -> None:
    student, teacher = random_logits(4).requires_grad_(), random_logits(5)
    PerSlice(kl_divergence(4.0), (0.0, 1.0)).over([(0, 1), (2, 3)])(
        student, teacher
    ).sum().backward()
    assert student.grad is not None
    assert not bool(student.grad[:, :2].any())
    assert bool(student.grad[:, 2:].any())


def test_without_slices_a_loss_per_slice_is_the_loss_of_all() -> None:
    student, teacher = random_logits(4), random_logits(5)
    assert torch.equal(
        PerSlice(l1_centred, (1.0, 2.0))(student, teacher), l1_centred(student, teacher)
    )


@pytest.mark.parametrize("weights", [(-1.0, 1.0), (0.0, 0.0), (math.inf, 1.0), (math.nan, 1.0)])
def test_slices_need_a_weight(weights: tuple[float, float]) -> None:
    with pytest.raises(SettingsError, match="weights of slices"):
        PerSlice(l1_centred, weights)
