"""Who is accused by most of those it is paired with; a liar stands alone in all of its pairs.

Source: ours.
"""

import torch
from torch import Tensor

ACCUSERS = 2
"""Pairs of an institution that have to speak against it: of one nobody knows whose fault it is."""
MOST_PAIRS = 0.5
"""Share of an institution's pairs that have to."""


def accused_institutions(accused: Tensor, judged: Tensor) -> set[int]:
    """Whom most of their pairs accuse, one after another, without the pairs of who was found.

    Args:
        accused: (T, T) bool: the pair of row and column speaks against the row.
        judged: (T, T) bool: pairs that have enough in common to say anything.

    Returns:
        Indices; none where half of all are accused.
    """
    accused, judged = accused & judged, judged.clone()
    found = set[int]()
    while (most := _most_accused(accused, judged)) is not None:
        found.add(most)
        for pairs in (accused, judged):
            pairs[most], pairs[:, most] = False, False
    return found if 2 * len(found) < len(accused) else set()


def _most_accused(accused: Tensor, judged: Tensor) -> int | None:
    """None: nobody often enough, or several as often who accuse one another."""
    accusers, pairs = accused.sum(1), judged.sum(1)
    enough = (accusers >= ACCUSERS) & (accusers >= MOST_PAIRS * pairs)
    share = accusers / pairs.clamp_min(1)
    evidence = torch.where(enough, accusers + share / 2, 0.0)
    most = (enough & (evidence == evidence.max())).nonzero()[:, 0]
    if len(most) and not bool(accused[most][:, most].any()):
        return int(most[0])
    return None
