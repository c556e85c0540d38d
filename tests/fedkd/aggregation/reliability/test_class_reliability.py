"""Reliability of institutions: liars are found, and honest ones are not accused."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedkd.aggregation.log_linear_pool import FLOOR
from fedkd.aggregation.reliability.answer_agreement import MAX_INSTITUTIONS, correlation
from fedkd.aggregation.reliability.class_claims import (
    answers_its_only_class,
    class_contrast,
    shown_classes,
)
from fedkd.aggregation.reliability.class_reliability import (
    LEAST_AGREEMENT,
    Reliability,
    _Judge,
    estimate_reliability,
)
from fedkd.aggregation.reliability.swapped_classes import swapped_pair

SAMPLES, CLASSES = 400, 6


def answers(counts: Tensor, seed: int = 0, noise: float = 0.7) -> Tensor:
    """Logits (T, N, K) of honest teachers: of one truth, each with noise and a bias of its own.

    Who has no images of a class is never sure of it, and so of another one where it is the truth.
    """
    rng = torch.Generator().manual_seed(seed)
    truth = 3.0 * torch.randn(SAMPLES, CLASSES, generator=rng)
    own = truth + noise * torch.randn(len(counts), SAMPLES, CLASSES, generator=rng)
    own += torch.randn(len(counts), 1, CLASSES, generator=rng)
    return own.masked_fill((counts == 0)[:, None], -12.0)


def lies(kind: str, honest: Tensor, seed: int = 99) -> Tensor:
    """(N, K) -> (N, K)."""
    rng = torch.Generator().manual_seed(seed)
    match kind:
        case "inverted":
            return -honest
        case "random":
            return 100 * torch.randn(honest.shape, generator=rng)
        case "shuffled":
            return honest.roll(1, 1)
    raise AssertionError(kind)


ALIKE = torch.full((5, CLASSES), 50.0)
SKEWED = torch.tensor(
    [
        [80.0, 60.0, 40.0, 0.0, 0.0, 0.0],
        [0.0, 50.0, 70.0, 60.0, 0.0, 0.0],
        [0.0, 0.0, 40.0, 90.0, 50.0, 0.0],
        [70.0, 0.0, 60.0, 0.0, 60.0, 0.0],
        [60.0, 50.0, 0.0, 70.0, 0.0, 90.0],  # the only one who knows the last class
    ]
)


UNEVEN = torch.tensor(
    [
        [0.0, 0.0, 134.0, 56.0, 126.0, 120.0],  # agrees least of all while the second one lies
        [8.0, 76.0, 54.0, 7.0, 54.0, 14.0],
        [162.0, 86.0, 1.0, 0.0, 6.0, 14.0],
        [8.0, 2.0, 11.0, 28.0, 1.0, 52.0],
        [21.0, 36.0, 0.0, 108.0, 14.0, 0.0],
    ]
)


def left_out(found: Reliability) -> set[int]:
    return {k for k, own in enumerate(found.trusted) if not bool(own.any())}


@pytest.mark.parametrize("counts", [ALIKE, SKEWED], ids=["alike", "skewed"])
@pytest.mark.parametrize("seed", range(4))
def test_nobody_honest_is_left_out(counts: Tensor, seed: int) -> None:
    found = estimate_reliability(answers(counts, seed), counts)
    assert left_out(found) == set()
    assert bool(found.trusted[counts > 0].all())
    assert float(found.agreement.min()) > 0.3


@pytest.mark.parametrize("kind", ["inverted", "random", "shuffled"])
@pytest.mark.parametrize(
    ("counts", "liar"),
    [*itertools.product([ALIKE], range(5)), *itertools.product([SKEWED], range(4))],
)
def test_a_liar_is_left_out_alone_whatever_it_claims(kind: str, counts: Tensor, liar: int) -> None:
    logits, claims = answers(counts), counts.clone()
    logits[liar], claims[liar] = lies(kind, logits[liar]), 60.0
    found = estimate_reliability(logits, claims)
    refuted = {k for k, own in enumerate(found.shown) if not bool(own.any())}
    assert left_out(found) | refuted == {liar}


@pytest.mark.parametrize("seed", range(10))
def test_a_liar_is_judged_by_what_it_claims_and_not_by_what_its_lies_show(seed: int) -> None:
    """Inverted answers show few classes, too few to conclude anything from."""
    rng = torch.Generator().manual_seed(seed)
    had = torch.rand(5, CLASSES, generator=rng) < 0.5
    counts = had * torch.randint(20, 100, (5, CLASSES), generator=rng)
    logits = answers(counts, seed)
    logits[1] *= -1
    counts[1] = 150
    assert not estimate_reliability(logits, counts).trusted[1].any()


def test_two_who_tell_the_same_lie_do_not_vouch_for_each_other() -> None:
    counts = torch.full((10, CLASSES), 50.0)
    for kind in ("inverted", "random", "shuffled"):
        logits = answers(counts)
        logits[3] = logits[8] = lies(kind, logits[3])
        assert left_out(estimate_reliability(logits, counts)) == {3, 8}, kind


@pytest.mark.parametrize("seed", range(4))
def test_nor_do_they_where_nobody_knows_all_classes(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    counts = torch.zeros(10, CLASSES)
    for own in counts:  # four of six classes each
        own[torch.randperm(CLASSES, generator=rng)[:4]] = 60.0
    logits, claims, colluding = answers(counts, seed), counts.clone(), [2, 7]
    logits[colluding] = lies("random", logits[2])
    claims[colluding] = 60.0
    assert left_out(estimate_reliability(logits, claims)) == set(colluding)


def test_two_loud_liars_of_ten_do_not_drown_out_the_others() -> None:
    """They own what is fused of all others, and not what honest institutions say of each other."""
    found = []
    for seed in range(10):
        rng = torch.Generator().manual_seed(seed)
        had = torch.rand(10, CLASSES, generator=rng) < 0.5
        counts = had * torch.randint(20, 100, (10, CLASSES), generator=rng)
        logits = answers(counts, seed)
        logits[[2, 7]] = 100 * torch.randn(SAMPLES, CLASSES, generator=rng)
        counts[[2, 7]] = 150
        found.append(left_out(estimate_reliability(logits, counts)))
    assert sum(each == {2, 7} for each in found) >= 9


@pytest.mark.parametrize("seed", range(4))
def test_who_was_left_out_because_of_a_liar_is_let_in_again(seed: int) -> None:
    logits, claims = answers(UNEVEN, seed), UNEVEN.clone()
    logits[1] = lies("shuffled", logits[1])
    claims[1] = 60.0
    assert left_out(estimate_reliability(logits, claims)) == {1}


def test_of_two_classes_that_are_swapped_only_these_are_left_out() -> None:
    logits = answers(ALIKE)
    logits[2, :, [1, 4]] = logits[2, :, [4, 1]].clone()
    found = estimate_reliability(logits, ALIKE)
    assert left_out(found) == set()
    assert (~found.trusted).nonzero().tolist() == [[2, 1], [2, 4]]


def test_who_contradicts_the_others_on_a_single_class_keeps_it() -> None:
    logits = answers(ALIKE)
    logits[2, :, 4] = -logits[2, :, 4]
    found = estimate_reliability(logits, ALIKE)
    assert bool(found.trusted.all())
    logits[2, :, 1] = -logits[2, :, 1]
    assert (~estimate_reliability(logits, ALIKE).trusted).nonzero().tolist() == [[2, 1], [2, 4]]


def test_a_constant_answer_shows_no_class() -> None:
    logits = answers(ALIKE)
    logits[2] = 20 * torch.eye(CLASSES)[3]
    found = estimate_reliability(logits, ALIKE)
    assert 2 in left_out(found) or bool((found.shown[2] == 0).all())
    assert bool((found.shown[[0, 1, 3, 4]] == 1).all())


def test_claims_that_answers_do_not_show_are_refuted_and_small_ones_are_let_be() -> None:
    claims = SKEWED.clone()
    claims[0, 3:] = 60.0  # it knows three classes, and claims all
    found = estimate_reliability(answers(SKEWED), claims)
    assert found.shown[0].tolist() == [1, 1, 1, 0, 0, 0]
    claims[0, 3:] = 1.0
    assert found.shown[1:].tolist() == [[1.0] * CLASSES] * 4
    assert bool((estimate_reliability(answers(SKEWED), claims).shown == 1).all())


def test_where_half_would_be_left_out_nothing_is_concluded() -> None:
    """Strong noise is no lie: answers of local differential privacy look like this."""
    rng = torch.Generator().manual_seed(0)
    noise = 50 * torch.randn(5, SAMPLES, CLASSES, generator=rng)
    found = estimate_reliability(noise, ALIKE)
    assert bool(found.trusted.all())
    assert bool((found.shown == 1).all())


@pytest.mark.parametrize("seed", range(6))
def test_where_samples_tell_nothing_nobody_is_left_out(seed: int) -> None:
    """As of a generator that has just begun: all samples are nearly alike."""
    counts = SKEWED if seed % 2 else ALIKE
    rng = torch.Generator().manual_seed(seed)
    logits = answers(counts, seed)[:, :1].expand(-1, SAMPLES, -1)
    logits = logits + 0.2 * torch.randn(logits.shape, generator=rng)
    assert left_out(estimate_reliability(logits, counts)) == set()


def test_of_two_institutions_nobody_can_say_who_lies() -> None:
    logits = answers(ALIKE[:2])
    logits[1] = -logits[1]
    assert bool(estimate_reliability(logits, ALIKE[:2]).trusted.all())


def test_of_very_many_institutions_nobody_is_judged() -> None:
    counts = torch.full((MAX_INSTITUTIONS + 1, CLASSES), 50.0)
    logits = answers(counts)
    logits[1] = -logits[1]
    found = estimate_reliability(logits, counts)
    assert bool(found.trusted.all())
    assert bool(found.agreement.isnan().all())
    assert left_out(estimate_reliability(logits[:-1], counts[:-1])) == {1}


def test_who_shares_no_class_is_not_judged() -> None:
    counts = torch.tensor([[50.0, 50, 50, 50, 0, 0]] * 3 + [[0.0, 0, 0, 0, 50, 50]])
    found = estimate_reliability(answers(counts), counts)
    assert found.agreement.isnan().tolist() == [False, False, False, True]
    assert bool(found.trusted[3, 4:].all())


def test_classes_that_an_institution_does_not_have_are_no_evidence() -> None:
    """Sets differ: -inf and a mask say the same as if the class were not there."""
    known = torch.ones(5, CLASSES, dtype=torch.bool)
    known[4, 3:] = False
    logits = answers(ALIKE)
    logits[1] = -logits[1]
    logits[4, :, 3:] = -torch.inf
    found = estimate_reliability(logits, ALIKE, known)
    assert left_out(found) == {1}
    assert bool(found.agreement[[0, 2, 3, 4]].gt(0.3).all())


@given(order=st.permutations(range(5)))
@settings(max_examples=12, deadline=None)
def test_the_order_of_institutions_does_not_matter(order: list[int]) -> None:
    logits = answers(SKEWED)
    logits[1] = -logits[1]
    found, other = (
        estimate_reliability(logits, SKEWED),
        estimate_reliability(logits[order], SKEWED[order]),
    )
    assert torch.equal(other.trusted, found.trusted[order])
    assert torch.equal(other.shown, found.shown[order])
    torch.testing.assert_close(other.agreement, found.agreement[order], equal_nan=True)


def test_agreement_is_the_correlation_after_centring_over_classes_and_samples() -> None:
    rng = torch.Generator().manual_seed(1)
    one, other = (torch.randn(50, 4, generator=rng) for _ in range(2))
    weight = torch.tensor([1.0, 0.5, 0.0, 1.0])
    w = weight.numpy() / weight.sum().item()
    centred = []
    for x in (one.numpy(), other.numpy()):
        x = x - (x * w).sum(1, keepdims=True)
        centred.append(x - x.mean(0))
    by_class, whole = correlation(one, other, weight)
    for k in range(4):
        expected = np.corrcoef(centred[0][:, k], centred[1][:, k])[0, 1]
        assert float(by_class[k]) == pytest.approx(expected, abs=1e-5)
    flat = [np.sqrt(w) * x for x in centred]
    cosine = (flat[0] * flat[1]).sum() / np.linalg.norm(flat[0]) / np.linalg.norm(flat[1])
    assert whole == pytest.approx(cosine, abs=1e-5)


@pytest.mark.parametrize("scale", [0.5, 4.0])
def test_a_temperature_changes_no_agreement_by_much(scale: float) -> None:
    logits = answers(ALIKE)
    logits[0] *= scale
    found = estimate_reliability(logits, ALIKE)
    assert bool(found.trusted.all())
    assert float(found.agreement[0]) > 0.5


def test_shown_is_relative_to_whoever_shows_the_class_most() -> None:
    p = torch.full((2, 100, 2), 0.05)
    p[0, :5, 0], p[1, :5, 0] = 0.85, 0.214  # contrasts 0.8 and 0.164
    everybody = torch.ones(2, 2, dtype=torch.bool)
    contrast = class_contrast(p)
    assert shown_classes(contrast, everybody)[:, 0].tolist() == [1.0, 0.5]
    nobody_else = torch.tensor([[False, True], [True, True]])
    assert shown_classes(contrast, nobody_else)[1, 0] == 1.0


def single_class(kind: str, known_to_others: bool) -> tuple[Tensor, Tensor]:
    """Answers and counts of five, of whom the last claims a single class, and answers by kind."""
    counts = ALIKE.clone()
    counts[:4, 2] = 50.0 if known_to_others else 0.0
    counts[4] = torch.tensor([0.0, 0.0, 900.0, 0.0, 0.0, 0.0])
    logits = answers(counts.clamp_min(1.0) if known_to_others else counts)
    if kind == "its class":
        logits[4, :, 2] += 20
    elif kind == "never its class":
        logits[4, :, 2] -= 20
    else:
        logits[4] = lies(kind, logits[4])
    return logits, counts


@pytest.mark.parametrize(
    ("kind", "granted"),
    [("its class", 1.0), ("never its class", 0.0), ("random", 0.0), ("inverted", 0.0)],
)
def test_a_single_class_is_granted_to_who_always_answers_it(kind: str, granted: float) -> None:
    """An honest teacher of one class can do nothing else; a liar may, and is refuted."""
    found = estimate_reliability(*single_class(kind, known_to_others=False))
    assert float(found.shown[4, 2]) == granted
    assert bool((found.shown[:4] == 1).all())


@pytest.mark.parametrize(("kind", "granted"), [("its class", 50 / 900), ("never its class", 0.0)])
def test_a_class_that_others_know_counts_no_more_than_theirs(kind: str, granted: float) -> None:
    """Such answers tell nothing of a sample; they only lift the class."""
    found = estimate_reliability(*single_class(kind, known_to_others=True))
    assert float(found.shown[4, 2]) == pytest.approx(granted)
    assert bool((found.shown[:4] == 1).all())


def test_everybody_may_claim_a_class_of_its_own() -> None:
    counts = 90.0 * torch.eye(CLASSES)
    assert bool(estimate_reliability(answers(ALIKE[[0] * CLASSES]), counts).trusted.all())


def test_a_tenth_of_the_samples_may_go_elsewhere() -> None:
    p = torch.full((2, 100, 3), 0.1)
    p[:, :, 1] = 0.8
    p[0, :10, 0], p[1, :11, 0] = 0.9, 0.9
    claimed = torch.tensor([[0.0, 5.0, 0.0], [0.0, 5.0, 0.0]])
    assert answers_its_only_class(p.log(), claimed).tolist() == [True, False]


def test_who_is_far_off_on_a_single_class_loses_that_class_alone() -> None:
    """Centring spreads its contradiction over all classes; answers at random agree on none."""
    counts = ALIKE.clone()
    counts[2, :2] = 0
    logits = answers(counts)
    logits[2, :, 4] *= -8
    judge = _Judge(logits.log_softmax(-1).clamp_min(FLOOR), counts.double(), counts >= 0)
    assert judge.scores()[2] < LEAST_AGREEMENT
    found = estimate_reliability(logits, counts)
    assert (~found.trusted).nonzero().tolist() == [[2, 4]]
    logits[2] = lies("random", logits[2])
    assert left_out(estimate_reliability(logits, counts)) == {2}


FEW_WITNESSES = torch.tensor(  # the first knows both 1 and 3, two know one of them each
    [
        [60.0, 20.0, 0.0, 20.0, 60.0, 0.0],
        [0.0, 60.0, 60.0, 0.0, 60.0, 60.0],
        [60.0, 0.0, 60.0, 40.0, 0.0, 60.0],
        [90.0] * CLASSES,
    ]
)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_swap_that_each_witness_sees_half_of_is_left_out(seed: int) -> None:
    logits = answers(FEW_WITNESSES, seed)
    logits[3, :, [1, 3]] = logits[3, :, [3, 1]].clone()
    found = estimate_reliability(logits, FEW_WITNESSES)
    assert (~found.trusted).nonzero().tolist() == [[3, 1], [3, 3]]


def test_of_two_who_contradict_each_other_it_is_who_most_others_accuse() -> None:
    knowledge = (FEW_WITNESSES / 20).clamp(max=1)
    logits = answers(FEW_WITNESSES)
    honest = logits.log_softmax(-1).clamp_min(FLOOR)
    assert swapped_pair(honest, knowledge, (1, 3)) is None
    logits[3, :, [1, 3]] = logits[3, :, [3, 1]].clone()
    log_p = logits.log_softmax(-1).clamp_min(FLOOR)
    assert swapped_pair(log_p, knowledge, (3, 1)) == (3, (1, 3))
    assert swapped_pair(log_p, knowledge, (1, 3, 4)) is None  # who fails on more did not swap
    witness = [0, 3]  # alone it may be the liar
    assert swapped_pair(log_p[witness], knowledge[witness], (1, 3)) is None
