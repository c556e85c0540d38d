"""Adversarial terms against their formulas, image by image and class by class."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fedkd.losses import (
    Batch,
    adversarial_kl,
    boundary_support,
    disagreement,
    jensen_shannon,
    logit_discrepancy,
)
from fedkd.protocol import Signal

K = 4


def batch(teacher: Tensor, student: Tensor) -> Batch:
    """A batch with these logits; the images do not matter to the terms."""
    return Batch(torch.zeros(len(teacher), 1, 2, 2), {Signal.LOGITS: teacher}, student)


def random_logits(seed: int, rows: int = 6) -> Tensor:
    return torch.randn(rows, K, generator=torch.Generator().manual_seed(seed)).double() * 3


@pytest.mark.parametrize("masked", [True, False])
def test_adversarial_kl_is_the_masked_divergence_with_its_sign_turned(masked: bool) -> None:
    teacher, student = random_logits(2), random_logits(3)
    total = 0.0
    for t, s in zip(teacher, student, strict=True):
        if masked and t.argmax() != s.argmax():
            continue
        p, q = (t / 3).softmax(0), (s / 3).softmax(0)
        total += 9 * float((p * (p / q).log()).sum())
    value = adversarial_kl(3.0, masked).value(batch(teacher, student))
    assert float(value) == pytest.approx(-total / len(teacher))


def test_adversarial_kl_counts_no_image_beyond_its_ceiling() -> None:
    teacher = torch.tensor([[50.0, 0.0], [0.0, 0.0]])
    student = torch.tensor([[0.0, 50.0], [0.0, 0.0]])
    assert float(adversarial_kl(1.0, False, ceiling=5.0).value(batch(teacher, student))) == -2.5


def test_boundary_support_is_the_divergence_where_both_decide_differently() -> None:
    teacher, student = random_logits(2), random_logits(3)
    total, differ = 0.0, 0
    for t, s in zip(teacher, student, strict=True):
        if t.argmax() != s.argmax():
            p, q = t.softmax(0), s.softmax(0)
            total, differ = total + float((p * (p / q).log()).sum()), differ + 1
    assert 0 < differ < len(teacher)
    value = boundary_support().value(batch(teacher, student))
    assert float(value) == pytest.approx(-total / len(teacher))


def test_logit_discrepancy_is_minus_the_mean_distance_of_centred_logits() -> None:
    teacher, student = random_logits(8), random_logits(9)
    total = 0.0
    for t, s in zip(teacher.tolist(), student.tolist(), strict=True):
        apart = [a - b for a, b in zip(s, t, strict=True)]
        total += sum(abs(d - sum(apart) / K) for d in apart) / K
    value = logit_discrepancy().value(batch(teacher, student))
    assert float(value) == pytest.approx(-total / len(teacher))


def test_logit_discrepancy_gains_nothing_by_an_offset_of_all_classes() -> None:
    teacher, student = random_logits(8), random_logits(9)
    shifted = logit_discrepancy().value(batch(teacher - 7.0, student + 3.0))
    assert torch.isclose(shifted, logit_discrepancy().value(batch(teacher, student)))


@pytest.mark.parametrize("over_classes", [True, False])
def test_jensen_shannon_is_that_of_the_public_code(over_classes: bool) -> None:
    teacher, student = random_logits(10), random_logits(11)
    kept = torch.tensor([True, False, True, True, False, True])
    total = 0.0
    for t, s in zip(teacher[kept], student[kept], strict=True):
        p, q = (s / 3).softmax(0), (t / 3).softmax(0)
        for a, b in zip(p.tolist(), q.tolist(), strict=True):
            m, a, b = (min(max(x, 0.01), 0.99) for x in ((a + b) / 2, a, b))
            total += 0.5 * m * math.log(m / a) + 0.5 * m * math.log(m / b)
    seen = replace(batch(teacher, student), selected=kept)
    value = jensen_shannon(3.0, over_classes).value(seen)
    assert float(value) == pytest.approx(1 - total / (4 * K if over_classes else 4))


@pytest.mark.parametrize("held", [True, False])
def test_a_held_teacher_has_no_slope(held: bool) -> None:
    teacher, student = random_logits(10).requires_grad_(), random_logits(11).requires_grad_()
    jensen_shannon(3.0, held=held).value(batch(teacher, student)).backward()
    assert student.grad is not None
    assert bool(student.grad.any())
    assert (teacher.grad is None) == held


@pytest.mark.parametrize("students", [2, 3])
def test_disagreement_is_minus_the_deviation_of_what_students_believe(students: int) -> None:
    peers, logits = object(), torch.stack([random_logits(i) for i in range(students)])
    term, total = disagreement(peers), 0.0
    p = logits.softmax(2)
    for b in range(6):
        for c in range(K):
            beliefs = p[:, b, c].tolist()
            centre = sum(beliefs) / students
            total += math.sqrt(sum((x - centre) ** 2 for x in beliefs) / (students - 1)) / (6 * K)
    seen = Batch(torch.zeros(6, 1, 2, 2), {}, logits[0], readings={id(peers): logits})
    assert float(term.value(seen)) == pytest.approx(-total)
    assert (term.needs, term.reads) == (frozenset(), (peers,))
