"""Accusations in pairs: a liar stands alone in all of its pairs, an honest one in those with it."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedkd.aggregation.reliability.pairwise_accusations import accused_institutions


def pairs(count: int, *which: tuple[int, int]) -> Tensor:
    found = torch.zeros(count, count, dtype=torch.bool)
    for one, other in which:
        found[one, other] = True
    return found


def everybody(count: int) -> Tensor:
    return ~torch.eye(count, dtype=torch.bool)


@given(st.integers(3, 12), st.data())
def test_a_liar_is_found_whose_every_pair_speaks_against_both(
    count: int, data: st.DataObject
) -> None:
    few = st.sets(st.integers(0, count - 1), max_size=(count - 1) // 2)
    liars = data.draw(few)
    is_liar = torch.tensor([k in liars for k in range(count)])
    against = is_liar[:, None] ^ is_liar  # two liars who tell the same agree with each other
    assert accused_institutions(against, everybody(count)) == liars


def test_of_two_who_accuse_each_other_alone_nobody_is_found() -> None:
    assert accused_institutions(pairs(4, (0, 1), (1, 0)), everybody(4)) == set()


def test_one_accuser_is_not_enough_nor_are_a_few_of_many() -> None:
    assert accused_institutions(pairs(4, (0, 1)), everybody(4)) == set()
    assert accused_institutions(pairs(7, (0, 1), (0, 2)), everybody(7)) == set()
    assert accused_institutions(pairs(5, (0, 1), (0, 2)), everybody(5)) == {0}


def test_pairs_that_share_too_little_do_not_count() -> None:
    judged = everybody(6)
    judged[0, 3:] = False
    against = pairs(6, (0, 1), (0, 2), (0, 3))
    assert accused_institutions(against, judged) == {0}
    judged[0, 1] = False
    assert accused_institutions(against, judged) == set()


def test_where_half_are_accused_nobody_is() -> None:
    against = pairs(4, (0, 2), (0, 3), (1, 2), (1, 3))
    assert accused_institutions(against, everybody(4)) == set()
