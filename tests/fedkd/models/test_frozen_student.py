"""The student of an earlier run: what it answers, and its weights in a student of more classes."""

import torch
from torch import nn

from fedkd.models import FrozenStudent, build_network, copy_grown_weights
from fedkd.protocol import Ask, PullBack, Signal, as_float

SHAPE = (1, 8, 8)
IMAGES = torch.randint(
    *(0, 256, (4, *SHAPE)), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
)


def frozen() -> FrozenStudent:
    return FrozenStudent(build_network("cnn", 3, SHAPE, 1), ("a", "c", "e"), SHAPE)


def test_its_answers_are_its_networks_and_its_gradient_that_of_autograd() -> None:
    student = frozen()
    leaf = as_float(IMAGES).requires_grad_()
    logits = student.network(leaf)
    answered = student.answer(Ask(IMAGES)).signals[Signal.LOGITS]
    assert torch.allclose(answered, logits, atol=1e-5)
    cotangent = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    pulled = student.answer(PullBack(IMAGES, {Signal.LOGITS: cotangent})).gradient
    assert pulled is not None
    assert torch.allclose(pulled, torch.autograd.grad(logits, leaf, cotangent)[0], atol=1e-5)


def test_its_signals_have_a_graph_and_nothing_of_it_learns() -> None:
    student, leaf = frozen(), as_float(IMAGES).requires_grad_()
    signals = student.differentiable(leaf, frozenset({Signal.LOGITS, Signal.BN_GAP}))
    torch.stack([value.sum() for value in signals.values()]).sum().backward()
    assert leaf.grad is not None
    assert bool(leaf.grad.any())
    assert not any(weight.requires_grad for weight in student.network.parameters())


def test_a_grown_student_answers_for_old_classes_as_the_earlier_one() -> None:
    earlier, student = frozen(), build_network("cnn", 5, SHAPE, 2).eval()
    fresh = student.head.weight.clone()
    assert copy_grown_weights(student, earlier.network, (0, 2, 4))
    x = as_float(IMAGES)
    assert torch.allclose(student(x)[:, [0, 2, 4]], earlier.network(x), atol=1e-5)
    assert torch.equal(student.head.weight[[1, 3]], fresh[[1, 3]])


def test_another_network_begins_anew() -> None:
    for other in (build_network("mlp", 5, SHAPE, 2), build_network("cnn-wide", 5, SHAPE, 2)):
        before = {name: weight.clone() for name, weight in other.state_dict().items()}
        assert not copy_grown_weights(other, frozen().network, (0, 2, 4))
        assert all(torch.equal(w, before[name]) for name, w in other.state_dict().items())


def test_a_layer_that_is_as_wide_as_there_are_classes_is_copied_whole() -> None:
    def network(outputs: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.Linear(3, outputs))

    earlier, student = network(3), network(4)
    assert copy_grown_weights(student, earlier, (1, 2, 3))
    x = as_float(IMAGES)
    assert torch.allclose(student(x)[:, 1:], earlier(x), atol=1e-6)
