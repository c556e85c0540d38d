"""Change of answers while a run asks: who turns is found, and nobody else is accused."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fedkd.aggregation.reliability.answer_agreement import MAX_INSTITUTIONS
from fedkd.aggregation.reliability.change_detection import changed_institutions

T, CLASSES, SAMPLES = 5, 6, 512
SKEWED = torch.tensor(
    [
        [90, 80, 4, 0, 0, 50],
        [0, 70, 60, 5, 0, 0],
        [60, 0, 90, 80, 0, 40],
        [0, 0, 0, 60, 90, 70],
        [70, 60, 0, 0, 80, 0],
    ],
)
EVEN = torch.full((T, CLASSES), 50)
ALL = torch.ones(T, CLASSES, dtype=torch.bool)


def blocks(counts: Tensor, count: int, seed: int = 0, noise: float = 1.0) -> list[Tensor]:
    """Answers (T, N, K) of honest institutions, by block; unseen classes are unknown to them."""
    rng = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        truth = 3 * torch.randn(1, SAMPLES, CLASSES, generator=rng)
        own = truth + noise * torch.randn(T, SAMPLES, CLASSES, generator=rng)
        found.append(own.masked_fill((counts == 0)[:, None], -8.0))
    return found


def inverted(logits: Tensor) -> Tensor:
    return -logits


def constant(logits: Tensor) -> Tensor:
    return 20 * torch.eye(CLASSES)[2].expand_as(logits)


def random(logits: Tensor) -> Tensor:
    return 100 * torch.randn(logits.shape, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize(
    ("counts", "lie"),
    [(EVEN, inverted), (EVEN, constant), (EVEN, random), (SKEWED, inverted), (SKEWED, random)],
)
@pytest.mark.parametrize("liar", range(T))
def test_who_turns_is_found_and_nobody_else_even_if_it_claims_most(
    counts: Tensor, liar: int, lie: Callable[[Tensor], Tensor]
) -> None:
    answers = blocks(counts, 4)
    answers[-1][liar] = lie(answers[-1][liar])
    claimed = counts.clone()
    claimed[liar] = 200
    assert changed_institutions(answers, claimed, ALL) == {liar}


@pytest.mark.parametrize("counts", [EVEN, SKEWED], ids=["even", "skewed"])
@pytest.mark.parametrize("seed", range(5))
def test_nobody_honest_is_accused(counts: Tensor, seed: int) -> None:
    assert changed_institutions(blocks(counts, 4, seed), counts, ALL) == set()


def test_who_lied_from_the_beginning_has_not_changed() -> None:
    answers = [block.clone() for block in blocks(EVEN, 3)]
    for block in answers:
        block[1] = inverted(block[1])
    assert changed_institutions(answers, EVEN, ALL) == set()


def test_who_is_better_in_the_end_has_not_changed() -> None:
    answers = blocks(EVEN, 3)
    answers[0][1] = inverted(answers[0][1])
    assert changed_institutions(answers, EVEN, ALL) == set()


def test_two_who_turn_together_are_both_found() -> None:
    answers = blocks(EVEN, 3)
    for liar in (0, 3):
        answers[-1][liar] = random(answers[-1][liar])
    assert changed_institutions(answers, EVEN, ALL) == {0, 3}


def test_nothing_is_concluded_where_most_seem_to_change() -> None:
    answers = blocks(EVEN, 3)
    for liar in range(4):
        answers[-1][liar] = 5 * torch.randn(
            SAMPLES, CLASSES, generator=torch.Generator().manual_seed(liar)
        )
    assert changed_institutions(answers, EVEN, ALL) == set()


def test_nothing_is_concluded_from_samples_that_are_all_alike() -> None:
    answers = blocks(EVEN, 3)
    answers[-1][:4, :, 0] += 9.0
    answers[-1][4] = random(answers[-1][4])
    assert changed_institutions(answers, EVEN, ALL) == set()


def test_of_very_many_institutions_nobody_is_judged() -> None:
    many = MAX_INSTITUTIONS + 1
    answers = [torch.cat([block] * 11)[:many] for block in blocks(EVEN, 3)]
    answers[-1][0] = inverted(answers[-1][0])
    counts, had = torch.full((many, CLASSES), 50), torch.ones(many, CLASSES, dtype=torch.bool)
    assert changed_institutions(answers, counts, had) == set()
