"""Teachers at hand: what they say is what a wire would carry, and misfits are told at once."""

import pytest
import torch
from torch import nn

from fedkd.errors import SettingsError
from fedkd.models import InProcess, ModuleTeacher, build_network
from fedkd.protocol import Ask, PullBack, Signal, rounded

SHAPE = (1, 8, 8)
IMAGES = torch.randint(0, 256, (5, *SHAPE), generator=torch.Generator().manual_seed(0)).to(
    torch.uint8
)


def test_a_teacher_with_the_wrong_number_of_classes_is_named() -> None:
    with pytest.raises(SettingsError, match=r"teacher b answers \(1, 7\).*expected \(1, 10\)"):
        InProcess(
            {"a": build_network("cnn", 10, SHAPE, 0), "b": build_network("cnn", 7, SHAPE, 0)},
            SHAPE,
            10,
        )


def test_a_teacher_of_other_images_is_named_in_one_line() -> None:
    with pytest.raises(SettingsError, match="teacher a cannot read images") as caught:
        InProcess({"a": nn.Sequential(nn.Flatten(), nn.Linear(7, 10))}, SHAPE, 10)
    assert "\n" not in str(caught.value)


def test_answers_are_rounded_as_on_a_wire_unless_they_are_to_be_exact() -> None:
    module = build_network("cnn", 10, SHAPE, 1)
    said = ModuleTeacher(module, 10).ask(IMAGES, frozenset({Signal.LOGITS}))[Signal.LOGITS]
    teachers = InProcess({"a": module}, SHAPE, 10)
    rough = teachers.answer(Ask(IMAGES))["a"].signals[Signal.LOGITS]
    exact = teachers.answer(Ask(IMAGES, exact=True))["a"].signals[Signal.LOGITS]
    assert torch.equal(rough, rounded(said, Signal.LOGITS, exact=False))
    assert rough.dtype == torch.float16
    assert torch.equal(exact, said)


def test_counts_and_gradients_are_on_the_card_and_pulled_back_by_name() -> None:
    teachers = InProcess(
        {"a": build_network("cnn", 10, SHAPE, 1), "b": build_network("mlp", 10, SHAPE, 1)},
        SHAPE,
        10,
        {"a": range(10)},
    )
    a, b = teachers.cards
    assert a.class_counts == tuple(range(10))
    assert b.class_counts is None
    assert Signal.BN_GAP in a.signals
    assert Signal.BN_GAP not in b.signals
    cotangents = {Signal.LOGITS: torch.ones(5, 10)}
    pulled = teachers.answer({"b": PullBack(IMAGES, cotangents)})
    assert set(pulled) == {"b"}
    gradient = pulled["b"].gradient
    assert gradient is not None
    assert gradient.shape == IMAGES.shape
