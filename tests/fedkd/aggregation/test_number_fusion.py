"""Fusion of numbers: each rule's formula, who is silent about a number, and who lies."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedkd.aggregation.number_fusion import (
    NEAR,
    NUMBER_RULES,
    build_number_fusion,
    huber,
    median,
    trimmed_mean,
    weighted_mean,
)
from fedkd.errors import SettingsError
from fedkd.protocol import Answers, Card, Number, Reply, Signal

NAN = float("nan")
shares = st.floats(0.0, 1.0, width=32)


def card(name: str, *numbers: Number) -> Card:
    numbers = numbers or (Number("y", error=1.0),)
    return Card(name, len(numbers), (1, 1, 2), frozenset({Signal.LOGITS}), numbers=numbers)


def answers(**values: list[list[float]]) -> Answers:
    return {name: Reply({Signal.LOGITS: torch.tensor(own)}) for name, own in values.items()}


def column(*values: float) -> tuple[Tensor, Tensor]:
    """Predictions of T institutions of one number for one sample, and weights."""
    return torch.tensor(values).view(-1, 1, 1), torch.ones(len(values), 1, 1)


@pytest.mark.parametrize(
    ("rule", "values", "fused"),
    [
        (weighted_mean, (0.1, 0.2, 0.6), 0.3),
        (weighted_mean, (0.1, NAN, 0.6), 0.35),
        (median, (0.1, 0.2, 0.6), 0.2),
        (median, (0.1, 0.2, 0.6, 0.8), 0.4),
        (median, (0.1, NAN, 0.6), 0.35),
        (trimmed_mean, (0.1, 0.2, 0.9), 0.2),
        (trimmed_mean, (0.1, 0.5), 0.3),
        (trimmed_mean, (0.1, NAN, 0.5), 0.3),
        (trimmed_mean, (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 1.0), 0.35),  # two left out at each end
    ],
)
def test_a_rule_is_its_formula(rule: object, values: tuple[float, ...], fused: float) -> None:
    assert callable(rule)
    assert float(rule(*column(*values))) == pytest.approx(fused)


def test_inverse_error_weighs_by_one_over_the_squared_error_in_ranges() -> None:
    near, far = Number("y", "", 0.0, 10.0, error=1.0), Number("y", "", 0.0, 10.0, error=2.0)
    fusion = build_number_fusion("inverse_error", [card("a", near), card("b", far)])
    fused = fusion.of(answers(a=[[0.2]], b=[[0.7]]))[Signal.LOGITS]
    assert float(fused) == pytest.approx((4 * 0.2 + 1 * 0.7) / 5)
    with pytest.raises(SettingsError, match="b does not tell"):
        build_number_fusion("inverse_error", [card("a", near), card("b", Number("y"))])


def test_a_number_is_fused_over_those_who_predict_it() -> None:
    both = card("a", Number("x"), Number("y"))
    fusion = build_number_fusion("mean", [both, card("b", Number("y"))])
    said = answers(a=[[0.2, 0.4]], b=[[0.8]])
    assert fusion.of(said)[Signal.LOGITS].tolist() == [pytest.approx([0.2, 0.6])]
    # Nobody who answered predicts x: the middle of its range.
    only_b = {"b": said["b"]}
    assert fusion.of(only_b)[Signal.LOGITS].tolist() == [pytest.approx([0.5, 0.8])]


@pytest.mark.parametrize("rule", sorted(NUMBER_RULES))
@given(values=st.lists(shares, min_size=4, max_size=4))
def test_the_order_of_institutions_means_nothing(rule: str, values: list[float]) -> None:
    names = ("a", "b", "c", "d")
    told = answers(**{name: [[value]] for name, value in zip(names, values, strict=True)})
    first: list[list[float]] | None = None
    for order in itertools.islice(itertools.permutations(names), 0, 24, 5):
        fusion = build_number_fusion(rule, [card(name) for name in order])
        fused = fusion.of({name: told[name] for name in order})[Signal.LOGITS].tolist()
        first = first or fused
        assert fused == first


@pytest.mark.parametrize(
    ("rule", "bounded"), [("median", True), ("trimmed_mean", True), ("mean", False)]
)
@pytest.mark.parametrize("lie", [-1e9, 1e9])
def test_one_liar_moves_the_mean_and_neither_median_nor_trimmed_mean(
    rule: str, bounded: bool, lie: float
) -> None:
    honest = {"a": [[0.50]], "b": [[0.52]], "c": [[0.54]]}
    cards = [card(name) for name in (*honest, "liar")]
    fused = build_number_fusion(rule, cards).of(answers(**honest, liar=[[lie]]))[Signal.LOGITS]
    inside = 0.50 <= float(fused) <= 0.54
    assert inside is bounded
    assert 0.0 <= float(fused) <= 1.0  # a lie counts as the end of the range, no more


def test_huber_is_the_mean_of_those_who_agree_and_bounds_who_does_not() -> None:
    near = column(0.40, 0.44, 0.45, 0.47)
    assert torch.allclose(huber(*near), weighted_mean(*near))
    honest = column(0.40, 0.44, 0.45)
    with_liar = [huber(*column(0.40, 0.44, 0.45, lie)) for lie in (0.0, 1.0)]
    for fused in with_liar:
        # The median moves to its neighbours' middle, and the liar adds a quarter of NEAR.
        assert abs(float(fused - huber(*honest))) < 0.05 / 2 + NEAR / 4
    assert float(huber(*column(0.2, NAN, 0.3))) == pytest.approx(0.25)


def test_a_gradient_reaches_every_institution_that_counts() -> None:
    fusion = build_number_fusion("mean", [card("a"), card("b")])
    leaves = {name: torch.tensor([[0.3], [0.6]], requires_grad=True) for name in ("a", "b")}
    fused = fusion({name: {Signal.LOGITS: leaf} for name, leaf in leaves.items()})[Signal.LOGITS]
    torch.autograd.backward(fused.sum())
    for leaf in leaves.values():
        assert leaf.grad is not None
        assert leaf.grad.tolist() == [[0.5], [0.5]]


def test_an_unknown_rule_is_refused_and_auto_is_huber() -> None:
    assert build_number_fusion("auto", [card("a")]).rule == "huber"
    with pytest.raises(SettingsError, match="choose auto or one of mean, median"):
        build_number_fusion("log_linear_pool", [card("a")])
