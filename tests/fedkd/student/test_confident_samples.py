"""Confident samples: only what is above the threshold of its class is learned, and the reverse."""

import math

import pytest
import torch
from torch import nn

from fedkd.core.bank import Bank
from fedkd.core.schedules import constant
from fedkd.errors import SettingsError
from fedkd.methods.kd3 import teacher_share
from fedkd.student.class_thresholds import class_thresholds
from fedkd.student.confident_samples import ConfidentSamples, ThresholdedSamples
from tests.support.contexts import context_of

SHAPE, K = (1, 4, 4), 3
SURE = torch.tensor([[9.0, 0, 0], [9.0, 0, 0], [0.5, 0, 0], [0, 0.5, 0]])
"""Two that are sure, one that is not, and one of a rare class, of which 0.45 is enough."""


def part(share: float = 1.0, reverse: bool = False, banked: int = 100) -> ThresholdedSamples:
    bank = Bank()
    images = torch.randint(0, 256, (banked, *SHAPE), dtype=torch.uint8)
    bank.add(images, torch.zeros(banked, K))
    context = context_of(nn.Identity(), SHAPE, K, bank=bank)
    return context.part(ConfidentSamples(constant(share), reverse=reverse))


def test_what_is_above_its_threshold_is_learned_and_nothing_else() -> None:
    found = part().sample_weights(torch.zeros(4, K), SURE, 0.0)
    assert found is not None
    # Thresholds: 0.95 for the class with three, 0.95 / 5 for that with one.
    assert found.tolist() == pytest.approx([4 / 3, 4 / 3, 0, 4 / 3])
    reverse = part(reverse=True).sample_weights(torch.zeros(4, K), SURE, 0.0)
    assert reverse is not None
    assert reverse.tolist() == [0, 0, 4, 0]


def test_the_student_is_heard_where_the_teacher_has_no_share() -> None:
    student = torch.tensor([[0.1, 0, 0], [9.0, 0, 0], [9.0, 0, 0]])
    found = part(0.0).sample_weights(student, SURE[:3], 0.9)
    assert found is not None
    assert found.tolist() == [0, 1.5, 1.5]


def test_where_nothing_is_sure_the_surest_is_learned() -> None:
    found = part().sample_weights(torch.zeros(2, K), torch.tensor([[0.1, 0, 0], [0.2, 0, 0]]), 0.0)
    assert found is not None
    assert found.tolist() == [0, 2]


def test_thresholds_are_those_of_the_last_epoch() -> None:
    own = part(banked=8)
    own.sample_weights(torch.zeros(4, K), SURE, 0.0)
    own.sample_weights(torch.zeros(4, K), SURE, 0.0)
    expected = class_thresholds(torch.tensor([6, 2, 0]))
    assert torch.equal(own.state().tensors["thresholds"], expected)
    own.sample_weights(torch.zeros(4, K), SURE.roll(1, 1), 0.0)
    assert torch.equal(own.state().tensors["thresholds"], expected)
    again = part(banked=8)
    again.restore(own.state())
    for each in (own, again):
        each.sample_weights(torch.zeros(4, K), SURE.roll(1, 1), 0.0)
    assert torch.equal(own.state().tensors["thresholds"], again.state().tensors["thresholds"])
    assert not torch.equal(own.state().tensors["thresholds"], expected)


def test_the_teachers_share_is_that_of_the_code() -> None:
    for epoch in (0, 30, 100, 118):
        expected = 1 - math.exp(-5 * ((epoch + 1) / 160 - 1) ** 2)
        assert teacher_share((epoch + 1) / 240) == pytest.approx(expected)
    assert teacher_share(0.5) == teacher_share(1.0) == 0.0


def test_a_ceiling_out_of_range_is_told() -> None:
    with pytest.raises(SettingsError, match=r"ceiling 0; expected in \(0, 1\]"):
        ConfidentSamples(constant(1.0), 0)
