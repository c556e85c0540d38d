"""Logit adjustment: the class prior of fused answers against its formula."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedkd.aggregation.fusion_of_cards import build_fusion
from fedkd.aggregation.fusion_rules import BLIND, RULES, build_class_fusion
from fedkd.core.run_plan import ClassPrior, Plan
from fedkd.errors import SettingsError
from fedkd.protocol import Card, Number, Signal

T, B, K = 3, 6, 3
SKEWED = ((90, 8, 2), (40, 50, 10), (70, 20, 10))
BALANCED = ((80, 5, 15), (10, 60, 30), (10, 35, 55))


def cards(counts: tuple[tuple[int, ...] | None, ...]) -> list[Card]:
    return [
        Card(str(k), K, (1, 2, 2), frozenset({Signal.LOGITS}), class_counts=own)
        for k, own in enumerate(counts)
    ]


def fused(rule: str, counts: tuple[tuple[int, ...], ...], prior: ClassPrior, x: Tensor) -> Tensor:
    answers = {str(k): {Signal.LOGITS: own} for k, own in enumerate(x)}
    return build_class_fusion(rule, cards(counts), prior)(answers)[Signal.LOGITS]


def logits(seed: int) -> Tensor:
    return torch.randn(T, B, K, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("rule", sorted(RULES))
def test_offset_by_the_formula(rule: str) -> None:
    counts = torch.tensor(SKEWED).float()
    prior = ((counts + 1) / (counts + 1).sum(1, keepdim=True)).log()
    effective = RULES[rule](prior[:, None], counts)[0]
    pooled = (counts.sum(0) + 1).log()
    effective, pooled = effective - effective.mean(), pooled - pooled.mean()
    share = float(((effective @ pooled) / (pooled @ pooled)).clamp(0, 1))
    assert share == 0 if rule == "prior_corrected" else share > 0.3
    trained = fused(rule, SKEWED, "as_trained", logits(0))
    uniform = fused(rule, SKEWED, "uniform", logits(0))
    assert torch.allclose(uniform, trained - share * pooled, atol=1e-4)
    wanted = torch.tensor([0.2, 0.3, 0.5]).log()
    given = fused(rule, SKEWED, (0.2, 0.3, 0.5), logits(0))
    assert torch.allclose(given, uniform + wanted - wanted.mean(), atol=1e-4)


@given(st.integers(0, 1000), st.sampled_from(["counted_logits", "mean_logits"]))
def test_one_prior_at_all_institutions_is_removed_whole(seed: int, rule: str) -> None:
    """Teachers of one likelihood, trained with a prior of 6 : 3 : 1 and with a uniform one."""
    likelihood = logits(seed)
    skewed, even = ((600, 300, 100),) * T, ((300, 300, 300),) * T
    log_prior = torch.tensor(skewed[0]).float().log()
    removed = fused(rule, skewed, "uniform", likelihood + log_prior).softmax(-1)
    assert torch.allclose(
        removed, fused(rule, even, "as_trained", likelihood).softmax(-1), atol=5e-3
    )


@given(st.integers(0, 1000), st.sampled_from(sorted(RULES)))
def test_classes_of_equal_size_change_nothing_however_they_are_spread(seed: int, rule: str) -> None:
    trained = fused(rule, BALANCED, "as_trained", logits(seed))
    assert torch.allclose(fused(rule, BALANCED, "uniform", logits(seed)), trained, atol=1e-5)


@pytest.mark.parametrize("rule", sorted(RULES))
def test_by_default_where_the_rule_uses_counts(rule: str) -> None:
    default = "as_trained" if rule in BLIND else "uniform"
    expected = fused(rule, SKEWED, default, logits(1))
    assert torch.equal(fused(rule, SKEWED, "auto", logits(1)), expected)


def test_a_class_that_one_institution_lacks() -> None:
    names = (("a", "b", "c"), ("a", "b"), ("a", "b", "c"))
    told = ((90, 8, 2), (40, 50), (70, 20, 10))
    different = [
        Card(
            str(k), len(own), (1, 2, 2), frozenset({Signal.LOGITS}), class_counts=c, class_names=own
        )
        for k, (own, c) in enumerate(zip(names, told, strict=True))
    ]
    x = logits(2)
    answers = {str(k): {Signal.LOGITS: x[k, :, : len(own)]} for k, own in enumerate(names)}
    trained, uniform = (
        build_class_fusion("auto", different, prior)(answers)[Signal.LOGITS].softmax(-1)
        for prior in ("as_trained", "uniform")
    )
    assert bool((uniform[:, 2] > trained[:, 2]).all())
    assert bool((uniform[:, 0] < trained[:, 0]).all())
    only = {"1": answers["1"]}  # nobody is heard on class c, which keeps 1 / K
    shares = build_class_fusion("auto", different)(only)[Signal.LOGITS].softmax(-1)
    assert torch.allclose(shares[:, 2], torch.full((B,), 1 / 3), atol=1e-5)


def test_a_gradient_reaches_every_institution() -> None:
    leaf = logits(3).requires_grad_()
    fused("log_linear_pool", SKEWED, "uniform", leaf).softmax(-1)[:, 0].sum().backward()
    assert leaf.grad is not None
    assert all(bool((own != 0).any()) for own in leaf.grad)


def test_false_counts_move_a_decision_no_further_than_a_bound() -> None:
    honest = cards(((50, 50, 50),) * 4)
    sure = torch.tensor([[0.0, 6.0, 0.0]])
    for claim in (10**3, 10**9):
        liar = Card("liar", K, (1, 2, 2), frozenset({Signal.LOGITS}), class_counts=(claim, 0, 0))
        answers = {c.name: {Signal.LOGITS: sure} for c in [*honest, liar]}
        found = build_class_fusion("auto", [*honest, liar])(answers)[Signal.LOGITS]
        assert int(found.argmax()) == 1


@pytest.mark.parametrize("prior", ["even", (0.5, 0.6), (1.0,), (0.0, 1.0), (0.5, -0.5, 1.0), 3])
def test_what_is_no_prior_is_refused(prior: ClassPrior) -> None:
    with pytest.raises(SettingsError, match="expected"):
        Plan(1, prior=prior)


def test_a_prior_that_cannot_be_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"2 shares and the federation 3 classes.*0, 1, 2"):
        build_fusion("auto", cards(SKEWED), (0.5, 0.5))
    silent = cards((SKEWED[0], None, SKEWED[2]))
    with pytest.raises(
        SettingsError, match="prior of the fused answer needs class counts, which 1"
    ):
        build_fusion("auto", silent, "uniform")
    assert build_fusion("auto", silent).rule == "mean_probabilities"
    number = Card("n", 1, (1, 1, 2), frozenset({Signal.LOGITS}), numbers=(Number("y"),))
    with pytest.raises(SettingsError, match="predict numbers; leave it out"):
        build_fusion("auto", [number], "uniform")
