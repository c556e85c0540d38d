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

from fedkd.aggregation.reliability.answer_agreement import AnswerAgreement, are_diverse

LEAST_FALL = 0.15
"""Of a pair's correlation, from the best earlier block to the last."""
MOST_LEFT = 0.2
"""Correlation in the last block below which a pair does not agree any more."""
ACCUSERS = 2
"""Pairs of an institution that have to fall: of one alone nobody knows whose fault it is."""
MOST_PAIRS = 0.5
"""Share of an institution's pairs that have to fall."""


def changed_institutions(blocks: Sequence[Tensor], counts: Tensor, had: Tensor) -> set[int]:
    """Institutions that agreed with the others in an earlier block and do not in the last.

    Args:
        blocks: (T, n, K) logits of the same institutions each, oldest first, -inf in a class that
            an institution does not have; two or more.
        counts: (T, K) training images of each class as they are claimed, bounded.
        had: (T, K) bool: which classes each has at all.

    Returns:
        Their indices; none where the last samples are too much alike, or half would have changed.
    """
    if not are_diverse(blocks[-1]):
        return set()
    granted = AnswerAgreement.of(torch.cat(list(blocks), 1), counts, had).counts()
    pairs = [AnswerAgreement.of(each, counts, had).of_pairs(granted)[0] for each in blocks]
    *earlier, last = pairs
    fell = torch.stack(earlier).amax(0) - last >= LEAST_FALL
    fell &= last < MOST_LEFT
    judged = ~last.isnan()
    changed = set[int]()
    while (accused := _most_accused(fell, judged)) is not None:
        changed.add(accused)
        for which in (fell, judged):
            which[accused], which[:, accused] = False, False
    return changed if 2 * len(changed) < len(counts) else set()


def _most_accused(fell: Tensor, judged: Tensor) -> int | None:
    """Whose pairs fell most often; None: nobody's often enough, or of two who agree no more.

    Args:
        fell: (T, T) bool.
        judged: (T, T) bool: pairs that have enough in common.
    """
    accusers, pairs = fell.sum(1), judged.sum(1)
    enough = (accusers >= ACCUSERS) & (accusers >= MOST_PAIRS * pairs)
    share = accusers / pairs.clamp_min(1)
    evidence = (accusers + share / 2).masked_fill(~enough, 0.0)
    most = (enough & (evidence == evidence.max())).nonzero()[:, 0]
    if len(most) and not bool(fell[most][:, most].any()):
        return int(most[0])
    return None
