"""Classes that are taken for other ones: who does so is found, and nobody else is accused."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fedkd.aggregation.reliability.answer_agreement import AnswerAgreement
from fedkd.aggregation.reliability.class_reliability import estimate_reliability
from fedkd.aggregation.reliability.relabelled_classes import relabelling_institutions
from tests.fedkd.aggregation.reliability.test_change_detection import ALL, EVEN, SKEWED, T, blocks

SHUFFLED = torch.tensor([3, 5, 1, 4, 0, 2])
SWAPPED = torch.tensor([0, 4, 2, 3, 1, 5])


def accused(logits: Tensor, counts: Tensor) -> set[int]:
    answers = AnswerAgreement.of(logits, counts, ALL)
    known = answers.knowledge(answers.counts())
    return relabelling_institutions(answers.columns(known), known, answers.knowledge(counts))


def one_lies(counts: Tensor, liar: int, order: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Answers of all, of whom one has its classes in another order and claims to know them all."""
    (logits,), claimed = blocks(counts, 1, seed), counts.clone()
    logits[liar], claimed[liar] = logits[liar][:, order], 200
    return logits, claimed


ORDERS = pytest.mark.parametrize(
    "order", [SHUFFLED, torch.arange(6).roll(1), torch.arange(6).flip(0)]
)


@ORDERS
@pytest.mark.parametrize("liar", range(T))
def test_who_has_another_order_is_found_alone(liar: int, order: Tensor) -> None:
    assert accused(*one_lies(EVEN, liar, order)) == {liar}


@ORDERS
@pytest.mark.parametrize("liar", range(T))
def test_it_is_left_out_alone_where_nobody_knows_all_classes(liar: int, order: Tensor) -> None:
    trusted = estimate_reliability(*one_lies(SKEWED, liar, order), ALL).trusted
    assert not trusted[liar].any()
    assert trusted[[k for k in range(T) if k != liar]].all()


@pytest.mark.parametrize("counts", [EVEN, SKEWED], ids=["even", "skewed"])
@pytest.mark.parametrize("seed", range(5))
def test_nobody_honest_is_accused(counts: Tensor, seed: int) -> None:
    (logits,) = blocks(counts, 1, seed)
    assert accused(logits, counts) == set()


@pytest.mark.parametrize("liar", range(T))
def test_two_swapped_classes_are_left_to_whoever_judges_single_classes(liar: int) -> None:
    assert accused(*one_lies(EVEN, liar, SWAPPED)) == set()


@pytest.mark.parametrize(
    "said", [lambda z: 0.3 * z, lambda z: z + 5 * torch.arange(6.0)], ids=["scale", "offset"]
)
def test_neither_a_scale_nor_an_offset_is_another_order(said: Callable[[Tensor], Tensor]) -> None:
    (logits,) = blocks(EVEN, 1)
    logits[2] = said(logits[2])
    assert accused(logits, EVEN) == set()


def test_nor_where_nobody_knows_any_other_class_of_them() -> None:
    counts = torch.zeros_like(EVEN)
    counts[:, [1, 4]] = 90
    (logits,) = blocks(counts, 1)
    logits[0] = logits[0][:, SWAPPED]
    assert accused(logits, counts) == set()
