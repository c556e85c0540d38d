"""Which institutions' answers have changed for the worse while a run asks.

An institution may answer honestly for half of a run and lie after that; taken together, its answers
are neither. So each pair of institutions is compared block by block, oldest first. The agreement of
two honest ones hardly varies from block to block, also under label skew, where it may be small from
the beginning; that of any pair with a liar falls. Pairs, and not all others fused: a liar that
claims much would pull what is fused with it, and honest ones would seem to have changed.

Source: ours. Related: change detection in a stream by two windows (Kifer, Ben-David and Gehrke,
VLDB 2004).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fedkd.aggregation.reliability.answer_agreement import (
    MAX_INSTITUTIONS,
    AnswerAgreement,
    are_diverse,
)
from fedkd.aggregation.reliability.pairwise_accusations import accused_institutions

LEAST_FALL = 0.15
"""Of a pair's correlation, from the best earlier block to the last."""
MOST_LEFT = 0.2
"""Correlation in the last block below which a pair does not agree any more."""


def changed_institutions(blocks: Sequence[Tensor], counts: Tensor, had: Tensor) -> set[int]:
    """Institutions that agreed with the others in an earlier block and do not in the last.

    Args:
        blocks: (T, n, K) logits of the same institutions each, oldest first, -inf in a class that
            an institution does not have; two or more.
        counts: (T, K) training images of each class as they are claimed, bounded.
        had: (T, K) bool: which classes each has at all.

    Returns:
        Their indices; none of more than `MAX_INSTITUTIONS`, where the last samples are too much
        alike, or where half would have changed.
    """
    if len(counts) > MAX_INSTITUTIONS or not are_diverse(blocks[-1]):
        return set()
    granted = AnswerAgreement.of(torch.cat(list(blocks), 1), counts, had).counts()
    pairs = [AnswerAgreement.of(each, counts, had).of_pairs(granted)[0] for each in blocks]
    *earlier, last = pairs
    fell = torch.stack(earlier).amax(0) - last >= LEAST_FALL
    fell &= last < MOST_LEFT
    judged = ~last.isnan()
    return accused_institutions(fell, judged)
