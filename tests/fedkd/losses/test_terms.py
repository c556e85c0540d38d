"""Each term against its formula, and against the side on which it calls a batch good."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fedkd.errors import SettingsError
from fedkd.losses.distillation import divergence, l1_centred
from fedkd.losses.image_prior import magnitude, sameness, total_variation
from fedkd.losses.term import (
    Batch,
    Term,
    agreement,
    bn_gap,
    class_balance,
    discrepancy,
    jensen_shannon,
    one_hot,
    penalised,
    wanted_class,
)
from fedkd.protocol import Signal

K = 4


def batch(teacher: Tensor, student: Tensor | None = None, gap: float = 0.0) -> Batch:
    """A batch with these logits; the images do not matter to the terms."""
    return Batch(
        torch.zeros(len(teacher), 1, 2, 2),
        {Signal.LOGITS: teacher, Signal.BN_GAP: torch.tensor(gap)},
        teacher if student is None else student,
    )


def random_logits(seed: int, rows: int = 6) -> Tensor:
    return torch.randn(rows, K, generator=torch.Generator().manual_seed(seed)).double() * 3


def test_one_hot_is_minus_log_of_the_largest_probability() -> None:
    logits = random_logits(0)
    expected = -logits.softmax(1).max(1).values.log().mean()
    assert torch.isclose(one_hot().value(batch(logits)), expected)


def test_class_balance_is_the_negative_entropy_of_the_mean_prediction() -> None:
    logits = random_logits(1)
    p = (logits / 5).softmax(1).mean(0)
    expected = sum(float(x) * math.log(float(x)) for x in p)
    assert float(class_balance(5.0).value(batch(logits))) == pytest.approx(expected)


def test_class_balance_survives_probabilities_of_zero() -> None:
    logits = torch.tensor([[1e4, 0.0, 0.0, 0.0]], requires_grad=True)
    value = class_balance().value(batch(logits))
    value.backward()
    assert float(value.detach()) == 0.0
    assert bool(logits.grad is not None and logits.grad.isfinite().all())


@pytest.mark.parametrize("masked", [True, False])
def test_agreement_is_the_masked_divergence_with_its_sign_turned(masked: bool) -> None:
    teacher, student = random_logits(2), random_logits(3)
    total = 0.0
    for t, s in zip(teacher, student, strict=True):
        if masked and t.argmax() != s.argmax():
            continue
        p, q = (t / 3).softmax(0), (s / 3).softmax(0)
        total += 9 * float((p * (p / q).log()).sum())
    value = agreement(3.0, masked).value(batch(teacher, student))
    assert float(value) == pytest.approx(-total / len(teacher))


def test_agreement_counts_no_image_beyond_its_ceiling() -> None:
    teacher = torch.tensor([[50.0, 0.0], [0.0, 0.0]])
    student = torch.tensor([[0.0, 50.0], [0.0, 0.0]])
    assert float(agreement(1.0, False, ceiling=5.0).value(batch(teacher, student))) == -2.5


def test_discrepancy_is_minus_the_mean_distance_of_centred_logits() -> None:
    teacher, student = random_logits(8), random_logits(9)
    total = 0.0
    for t, s in zip(teacher.tolist(), student.tolist(), strict=True):
        apart = [a - b for a, b in zip(s, t, strict=True)]
        total += sum(abs(d - sum(apart) / K) for d in apart) / K
    value = discrepancy().value(batch(teacher, student))
    assert float(value) == pytest.approx(-total / len(teacher))


def test_discrepancy_gains_nothing_by_an_offset_of_all_classes() -> None:
    teacher, student = random_logits(8), random_logits(9)
    shifted = discrepancy().value(batch(teacher - 7.0, student + 3.0))
    assert torch.isclose(shifted, discrepancy().value(batch(teacher, student)))


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
    value = jensen_shannon(3.0, over_classes).value(replace(batch(teacher, student), selected=kept))
    assert float(value) == pytest.approx(1 - total / (4 * K if over_classes else 4))


def test_pixel_terms_are_norms_of_the_whole_batch() -> None:
    x = torch.rand(3, 2, 4, 5, generator=torch.Generator().manual_seed(0)).double()
    squares = dict.fromkeys([(0, 1), (1, 0), (1, 1), (1, -1)], 0.0)
    for image in x.flatten(0, 1).tolist():
        for (dy, dx), _ in squares.items():
            for i in range(4 - dy):
                for j in range(max(0, -dx), 5 - max(0, dx)):
                    squares[dy, dx] += (image[i][j] - image[i + dy][j + dx]) ** 2
    seen = replace(batch(SURE), images=x)
    expected = sum(math.sqrt(each) for each in squares.values())
    assert float(total_variation().value(seen)) == pytest.approx(expected)
    assert float(magnitude().value(seen)) == pytest.approx(math.sqrt(float((x * x).sum())))


def test_what_became_worse_is_pulled_exponentially_harder() -> None:
    logits, term = random_logits(12), penalised(one_hot())
    plain = float(one_hot().value(batch(logits)))
    assert float(term.value(batch(logits))) == pytest.approx(math.exp(plain))
    reminded = replace(batch(logits), previous={"one_hot": 0.7, "class_balance": -1.0})
    assert float(term.value(reminded)) == pytest.approx(math.exp(plain - 0.7))
    assert term.memory is not None
    assert float(term.memory(reminded)) == pytest.approx(plain)


def test_sameness_is_how_far_answers_move_for_each_step_of_pixels() -> None:
    logits = random_logits(13)
    x = torch.rand(6, 1, 2, 2, generator=torch.Generator().manual_seed(1)).double()
    p = logits.softmax(1)
    answers = sum(float(((p[i + 3] - p[i]) ** 2).sum()) for i in range(3))
    pixels = sum(float(((x[i + 3] - x[i]) ** 2).sum()) for i in range(3))
    value = sameness().value(replace(batch(logits), images=x))
    assert float(value) == pytest.approx(math.sqrt(answers / pixels))


def test_a_class_can_be_wanted_and_nobody_may_want_none() -> None:
    logits, wanted = random_logits(14), torch.tensor([0, 3, 1, 2, 0, 1])
    expected = -sum(float(logits[i].log_softmax(0)[y]) for i, y in enumerate(wanted)) / 6
    value = wanted_class().value(replace(batch(logits), wanted=wanted))
    assert float(value) == pytest.approx(expected)
    with pytest.raises(SettingsError, match="needs a canvas that wants classes"):
        wanted_class().value(batch(logits))


SURE = torch.eye(K) * 10
UNSURE = torch.zeros(K, K)
COLLAPSED = torch.eye(K)[[0, 0, 0, 0]] * 10
SAME = SURE
OPPOSED = torch.eye(K).roll(1, 0) * 10


@pytest.mark.parametrize(
    ("term", "good", "bad"),
    [
        (one_hot(), batch(SURE), batch(UNSURE)),
        (class_balance(), batch(SURE), batch(COLLAPSED)),
        (bn_gap(), batch(SURE, gap=0.1), batch(SURE, gap=2.0)),
        (agreement(masked=False), batch(SURE, OPPOSED), batch(SURE, SAME)),
        (agreement(masked=True), batch(SURE, SURE / 10), batch(SURE, SAME)),
        (discrepancy(), batch(SURE, OPPOSED), batch(SURE, SAME)),
        (jensen_shannon(), batch(SURE, OPPOSED), batch(SURE, SAME)),
    ],
    ids=lambda x: x.name if isinstance(x, Term) else "",
)
def test_the_good_batch_scores_lower(term: Term, good: Batch, bad: Batch) -> None:
    assert term.value(good) < term.value(bad)


def test_l1_ignores_an_offset_of_all_classes() -> None:
    student, teacher = random_logits(4), random_logits(5)
    shift = torch.arange(6.0).double()[:, None]
    assert torch.allclose(l1_centred(student + shift, teacher), l1_centred(student, teacher))
    one = l1_centred(torch.tensor([[1.0, -1.0]]), torch.tensor([[0.0, 0.0]]))
    assert one.tolist() == [1.0]


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_divergence_at_no_temperature_is_refused(temperature: float) -> None:
    with pytest.raises(SettingsError, match="expected a finite temperature > 0"):
        divergence(temperature)


def test_divergence_is_zero_at_equality_and_scales_with_temperature_squared() -> None:
    student, teacher = random_logits(6), random_logits(7)
    assert torch.allclose(divergence(4.0)(teacher, teacher), torch.zeros(6).double(), atol=1e-12)
    p, q = (teacher / 4).softmax(1), (student / 4).softmax(1)
    expected = 16 * (p * (p / q).log()).sum(1)
    assert torch.allclose(divergence(4.0)(student, teacher), expected)
