"""Class-prior terms against their formulas, and what they say where class targets are missing."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fedkd.errors import SettingsError
from fedkd.losses import (
    Batch,
    Term,
    category_frequency,
    class_balance,
    hard_class,
    one_hot,
    target_class,
)
from fedkd.protocol import Signal

K = 4
TARGETS = torch.tensor([0, 3, 1, 2, 0, 1])


def batch(teacher: Tensor, **values: object) -> Batch:
    """A batch with these logits; neither images nor student matter to the terms."""
    images = torch.zeros(len(teacher), 1, 2, 2)
    return Batch(images, {Signal.LOGITS: teacher}, teacher, **values)  # type: ignore[arg-type]


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


@pytest.mark.parametrize("temperature", [1.0, 20.0])
def test_target_class_is_the_cross_entropy_with_classes_or_probabilities(
    temperature: float,
) -> None:
    logits = random_logits(14)
    log_p = (logits / temperature).log_softmax(1)
    expected = -sum(float(log_p[i, y]) for i, y in enumerate(TARGETS)) / 6
    value = target_class(temperature).value(batch(logits, class_targets=TARGETS))
    assert float(value) == pytest.approx(expected)
    soft = random_logits(15).softmax(1)
    expected = -float((soft * log_p).sum()) / 6
    value = target_class(temperature).value(batch(logits, class_targets=soft))
    assert float(value) == pytest.approx(expected)


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_a_hard_class_weighs_by_what_is_missing_and_no_slope_passes_the_weight(
    power: float,
) -> None:
    logits = random_logits(16).requires_grad_()
    total, slopes = 0.0, torch.zeros_like(logits)
    p = logits.detach().softmax(1)
    for i, y in enumerate(TARGETS.tolist()):
        weight = (1 - float(p[i, y])) ** power
        total -= weight * math.log(float(p[i, y])) / 6
        slopes[i] = weight * (p[i] - torch.eye(K)[y]) / 6
    value = hard_class(power).value(batch(logits, class_targets=TARGETS))
    assert float(value.detach()) == pytest.approx(total)
    value.backward()
    assert logits.grad is not None
    assert torch.allclose(logits.grad, slopes.detach())


def test_a_power_below_zero_is_refused() -> None:
    with pytest.raises(SettingsError, match="hard_class: expected a power >= 0, got -1"):
        hard_class(-1.0)


@pytest.mark.parametrize("term", [target_class(), hard_class()], ids=lambda term: term.name)
def test_images_without_class_targets_are_refused_by_the_terms_name(term: Term) -> None:
    with pytest.raises(SettingsError, match=f"term {term.name} needs images .* for a class"):
        term.value(batch(random_logits(14)))


def decided(*classes: int) -> Batch:
    return batch(9.0 * torch.eye(3)[list(classes)])


def test_a_class_that_was_seldom_synthesised_weighs_more_from_batch_to_batch() -> None:
    term = category_frequency()
    assert term.capture is not None
    seen = decided(0, 0, 0, 0, 0, 0, 1, 1)
    n = term.capture(seen)
    assert n.tolist() == [28.0, 26.0, 25.0]
    for _ in range(40):
        n = term.capture(replace(seen, previous={term.name: n}))
    assert n.tolist() == pytest.approx([6.0, 2.0, 1.0])
    weight = [0.01 / (1 - 0.99**x) for x in n.tolist()]
    weight = [3 * w / sum(weight) for w in weight]
    mean = seen.teacher[Signal.LOGITS].softmax(1).mean(0).tolist()
    expected = sum(w * p * math.log(p) for w, p in zip(weight, mean, strict=True))
    now = replace(seen, previous={term.name: n})
    assert float(term.value(now)) == pytest.approx(expected)
    assert float(category_frequency(beta=0.0).value(now)) == pytest.approx(
        sum(p * math.log(p) for p in mean)
    )


@pytest.mark.parametrize("values", [{"beta": 1.0}, {"decay": -0.1}, {"first": 0.0}])
def test_frequencies_out_of_range_are_refused(values: dict[str, float]) -> None:
    ((name, value),) = values.items()
    with pytest.raises(SettingsError, match=f"{name} {value}"):
        category_frequency(**values)
