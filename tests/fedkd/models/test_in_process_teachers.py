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


def softmaxed(seed: int) -> nn.Module:
    return nn.Sequential(build_network("mlp", 10, SHAPE, seed), nn.Softmax(dim=1))


def test_a_module_that_ends_in_softmax_is_refused_with_the_way_out() -> None:
    logits = build_network("mlp", 10, SHAPE, 1)
    with pytest.raises(SettingsError, match=r'teacher b answers probabi.*outputs="probabilities"'):
        InProcess({"a": logits, "b": softmaxed(2)}, SHAPE, 10)


def test_declared_probabilities_give_the_student_their_logarithm() -> None:
    logits = build_network("mlp", 10, SHAPE, 2)
    teachers = InProcess(
        {"a": build_network("mlp", 10, SHAPE, 1), "b": softmaxed(2)},
        SHAPE,
        10,
        outputs={"b": "probabilities"},
    )
    plain = InProcess({"b": logits}, SHAPE, 10).answer(Ask(IMAGES, exact=True))["b"]
    declared = teachers.answer(Ask(IMAGES, exact=True))["b"]
    expected = plain.signals[Signal.LOGITS].log_softmax(1)
    torch.testing.assert_close(declared.signals[Signal.LOGITS], expected, rtol=1e-4, atol=1e-5)
    everybody = InProcess({"b": softmaxed(2)}, SHAPE, 10, outputs="probabilities")
    again = everybody.answer(Ask(IMAGES, exact=True))["b"].signals[Signal.LOGITS]
    assert torch.equal(again, declared.signals[Signal.LOGITS])
    cotangents = {Signal.LOGITS: torch.ones(5, 10)}
    gradient = everybody.answer({"b": PullBack(IMAGES, cotangents)})["b"].gradient
    assert gradient is not None
    assert bool(gradient.isfinite().all())


def test_logits_declared_as_probabilities_are_refused() -> None:
    logits = build_network("mlp", 10, SHAPE, 2)
    with pytest.raises(SettingsError, match=r'no probabilities of 10 classes.*outputs="logits"'):
        InProcess({"a": logits}, SHAPE, 10, outputs="probabilities")


def test_outputs_of_an_unknown_name_kind_or_of_a_teacher_are_refused() -> None:
    module = build_network("mlp", 10, SHAPE, 2)
    with pytest.raises(SettingsError, match="'softmax'; expected logits or probabilities"):
        InProcess({"a": module}, SHAPE, 10, outputs="softmax")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="outputs of 'c'"):
        InProcess({"a": module}, SHAPE, 10, outputs={"c": "logits"})
    with pytest.raises(SettingsError, match="a ModuleTeacher, which is to answer logits itself"):
        InProcess({"a": ModuleTeacher(module, 10)}, SHAPE, 10, outputs="probabilities")


class Shifted(nn.Module):
    """Logits of a black image that happen to be probabilities; others differ."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.flatten(1).mean(1, keepdim=True)
        return torch.cat([0.25 + mean, 0.75 + mean], 1)


def test_logits_are_not_refused_because_one_row_sums_to_one() -> None:
    said = Shifted()(torch.zeros(1, *SHAPE))
    assert said.sum() == 1
    InProcess({"a": Shifted()}, SHAPE, 2)


def test_one_class_is_not_probed() -> None:
    InProcess({"a": nn.Sequential(nn.Flatten(), nn.Linear(64, 1), nn.Softmax(1))}, SHAPE, 1)
