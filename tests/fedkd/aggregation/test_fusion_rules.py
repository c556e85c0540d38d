"""The rules against their formulas, and the pool against the iteration that it solves at once."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedkd.aggregation.fusion_of_cards import build_fusion
from fedkd.aggregation.fusion_rules import RULES, RuleFusion, bounded_counts
from fedkd.aggregation.log_linear_pool import FLOOR, log_linear_pool
from fedkd.errors import SettingsError
from fedkd.protocol import Card, Reply, Signal

T, B, K = 3, 5, 4


def opinions(seed: int) -> tuple[Tensor, Tensor]:
    """(T, B, K) logits and (T, K) counts with zeros among them."""
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(T, B, K, generator=rng) * 4
    counts = torch.randint(0, 50, (T, K), generator=rng).float()
    return logits, counts * (torch.rand(T, K, generator=rng) > 0.3)


def by_alternation(logits: Tensor, counts: Tensor, shrinkage: float, rounds: int) -> Tensor:
    """u and a in turn, each the minimum of the weighted squares given the other."""
    log_p = logits.double().log_softmax(-1).clamp_min(FLOOR)
    relative = counts.double() / counts.double().mean().clamp_min(1.0)
    weight = relative.sqrt().clamp_min(0.05)[:, None]
    offset = torch.zeros(T, logits.shape[1], 1).double()
    for _ in range(rounds):
        pooled = (weight * (log_p + offset)).sum(0) / weight.sum(0)  # (B, K)
        offset = (weight * (pooled - log_p)).sum(-1, keepdim=True)
        offset = offset / (weight.sum(-1, keepdim=True) + shrinkage)
    return pooled


@given(st.integers(0, 10_000))
@settings(max_examples=30)  # each takes thousands of rounds
def test_the_pool_is_the_limit_of_alternating_least_squares(seed: int) -> None:
    logits, counts = opinions(seed)
    exact = log_linear_pool(logits, counts, shrinkage=10.0).double()
    assert torch.allclose(exact, by_alternation(logits, counts, 10.0, 3000), atol=2e-3)


def test_the_pool_takes_back_what_a_blind_institution_spreads() -> None:
    # Truth: class 2, which institution 1 has never seen and so calls 0 with all its certainty.
    informed = torch.tensor([[0.05, 0.05, 0.85, 0.05]]).log()
    blind = torch.tensor([[0.97, 0.01, 0.01, 0.01]]).log()
    counts = torch.tensor([[10.0, 10.0, 60.0, 10.0], [60.0, 10.0, 0.0, 10.0]])
    logits = torch.stack([informed, blind])
    assert int(log_linear_pool(logits, counts).argmax()) == 2
    assert int(RULES["mean_logits"](logits, counts).argmax()) == 0


@given(st.integers(0, 10_000))
def test_a_lone_institution_is_not_pooled_and_its_loud_noes_are_kept(seed: int) -> None:
    logits = opinions(seed)[0][:1] * 5
    fused = log_linear_pool(logits, opinions(seed)[1][:1])
    assert torch.equal(fused, logits[0].log_softmax(-1))
    assert float(fused.min()) < FLOOR


@given(st.integers(0, 10_000), st.sampled_from(sorted(RULES)))
def test_a_lone_institution_keeps_its_decision(seed: int, rule: str) -> None:
    logits, _ = opinions(seed)
    fused = RULES[rule](logits[:1], torch.full((1, K), 20.0))
    assert bool((fused.argmax(-1) == logits[0].argmax(-1)).all())


@pytest.mark.parametrize("rule", sorted(RULES))
def test_every_rule_is_finite_and_passes_a_gradient_to_every_institution(rule: str) -> None:
    logits, counts = opinions(1)
    logits[0, 0] *= 50  # an institution that is very sure
    leaf = logits.requires_grad_()
    fused = RULES[rule](leaf, counts)
    (fused.softmax(-1)[:, 0].sum()).backward()
    assert fused.shape == (B, K)
    assert leaf.grad is not None
    assert bool(leaf.grad.isfinite().all())
    assert all(bool((g != 0).any()) for g in leaf.grad)


def test_counted_probabilities_by_hand() -> None:
    p = torch.tensor([[[0.9, 0.1]], [[0.2, 0.8]]])
    counts = torch.tensor([[30.0, 10.0], [10.0, 30.0]])
    fused = RULES["counted_probabilities"](p.log(), counts).softmax(-1)[0]
    first = 0.75 * 0.9 + 0.25 * 0.2
    second = 0.25 * 0.1 + 0.75 * 0.8
    assert fused.tolist() == pytest.approx([first / (first + second), second / (first + second)])


def card(name: str, counts: tuple[int, ...] | None) -> Card:
    return Card(name, K, (1, 2, 2), frozenset({Signal.LOGITS}), class_counts=counts)


def test_the_automatic_rule_needs_counts_from_everybody() -> None:
    told = [card("a", (1, 2, 3, 4)), card("b", (4, 3, 2, 1))]
    assert build_fusion("auto", told).rule == "log_linear_pool"
    assert build_fusion("auto", [*told, card("c", None)]).rule == "mean_probabilities"
    with pytest.raises(SettingsError, match="class counts, which c keeps"):
        build_fusion("counted_logits", [*told, card("c", None)])
    with pytest.raises(SettingsError, match="unknown rule 'vote'"):
        build_fusion("vote", told)


def test_fusion_goes_by_name_whoever_is_there_and_in_whatever_order() -> None:
    logits, _ = opinions(2)
    counts = {"a": (9, 1, 0, 3), "b": (0, 4, 4, 4), "c": (2, 2, 2, 2)}
    pool = RuleFusion("log_linear_pool", counts)
    replies = {n: Reply({Signal.LOGITS: x}) for n, x in zip("abc", logits, strict=True)}
    forward = pool.of(replies)[Signal.LOGITS]
    backward = pool.of(dict(reversed(list(replies.items()))))[Signal.LOGITS]
    assert torch.equal(forward, backward)
    without = pool.of({n: replies[n] for n in "ac"})[Signal.LOGITS]
    expected = log_linear_pool(logits[[0, 2]], torch.tensor([counts["a"], counts["c"]]).float())
    assert torch.equal(without, expected)


def test_gaps_are_averaged() -> None:
    gap = {Signal.BN_GAP: torch.tensor(1.0), Signal.LOGITS: torch.zeros(B, K)}
    far = {Signal.BN_GAP: torch.tensor(3.0), Signal.LOGITS: torch.zeros(B, K)}
    assert float(RuleFusion("mean_logits")({"a": gap, "b": far})[Signal.BN_GAP]) == 2.0


def test_no_claim_of_counts_raises_a_weight_without_bound() -> None:
    """A liar with 10^9 images of each class decided alone: digits fell from 98 to 16 %."""
    honest = [card(name, (9, 8, 7, 6)) for name in "abcd"]
    truth = torch.tensor([[0.0, 8.0, 0.0, 0.0]]).expand(B, K)
    answers = {each.name: {Signal.LOGITS: truth} for each in honest}
    answers["liar"] = {Signal.LOGITS: -truth}
    fused = {}
    for claim in (100, 2**31 - 1):
        pool = build_fusion("auto", [*honest, card("liar", (claim,) * K)])
        fused[claim] = pool(answers)[Signal.LOGITS]
        assert bool((fused[claim].argmax(1) == 1).all())
    assert torch.allclose(fused[100], fused[2**31 - 1], atol=1e-4)


def test_counts_below_twice_the_median_are_what_they_were() -> None:
    counts = {"a": (9, 1, 0, 3), "b": (0, 4, 4, 4), "c": (6, 6, 6, 6), "d": (99, 1, 0, 0)}
    bounded = bounded_counts(counts)
    assert {name: bounded[name] for name in "abc"} == {name: counts[name] for name in "abc"}
    assert bounded["d"] == pytest.approx((25.74, 0.26, 0, 0))
    assert sum(bounded_counts({"a": (1, 1), "b": (10**9, 1)})["b"]) == pytest.approx(4)


def test_who_claims_no_image_takes_nobody_elses_counts_away() -> None:
    assert bounded_counts({"a": (0, 0), "b": (0, 0), "c": (5, 5)})["c"] == (5, 5)
    assert bounded_counts({"a": (100, 100, 0), "b": (0, 0, 0)})["a"] == (100, 100, 0)
    assert bounded_counts({"a": (0, 0), "b": (0, 0)}) == {"a": (0, 0), "b": (0, 0)}
    fused = build_fusion("counted_probabilities", [card("a", (9, 8, 7, 6)), card("b", (0,) * K)])
    sure = {name: {Signal.LOGITS: torch.tensor([[0.0, 8.0, 0.0, 0.0]])} for name in "ab"}
    assert float(fused(sure)[Signal.LOGITS].softmax(1)[0, 1]) > 0.9


def test_a_class_of_which_nobody_has_an_image_is_not_the_answer_to_everything() -> None:
    counts = torch.tensor([[50.0, 50.0, 50.0, 0.0]] * 2)
    logits = torch.tensor([[[6.0, 0.0, 0.0, -1.0], [0.0, 6.0, 0.0, -1.0]]] * 2)
    assert RULES["counted_logits"](logits, counts).argmax(1).tolist() == [0, 1]
    known = torch.tensor([[True] * 4, [True, True, True, False]])
    logits[1, :, 3] = -torch.inf  # as the logits of a class that it does not know are given
    fused = RULES["counted_logits"](logits, counts, known)
    assert fused[:, 3].tolist() == logits[0].log_softmax(-1)[:, 3].tolist()


@pytest.mark.parametrize("there", [1, 2])
def test_who_is_away_with_a_class_of_its_own_changes_nothing_in_the_pool_of_the_others(
    there: int,
) -> None:
    """Their answers were fused far too flat, as if each of them lacked a class."""
    names, some = ("w", "x", "y", "z"), list("ab")[:there]
    all_cards = [replace(card(name, (5,) * K), class_names=names) for name in "abc"]
    own = Card("c", 2, (1, 2, 2), frozenset({Signal.LOGITS}), class_counts=(5, 5))
    apart = [*all_cards[:2], replace(own, class_names=("y", "v"))]
    sure = {name: {Signal.LOGITS: torch.tensor([[6.0, 0.0, 0.0, 0.0]])} for name in some}
    wide = build_fusion("auto", apart)(sure)[Signal.LOGITS][0, 1:].softmax(0)  # v, w, x, y, z
    assert torch.allclose(wide, build_fusion("auto", all_cards)(sure)[Signal.LOGITS][0].softmax(0))
