"""Which institution takes two classes for each other, by what each of the others says of them.

Two who contradict each other on two classes look alike to a fusion that one of them dominates. So
each is compared with every peer: what an institution says of another class may follow what the peer
says of this one, more than what it says of this one does. Then the peer accuses it.

Source: ours.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import TypeAlias

from torch import Tensor

KNOWN = 0.5
"""Weight from which an institution counts as knowing a class; 1 is averagely."""
LEAST_FOLLOWED = 0.2
"""Correlation of another class with the peer's, from which that counts."""
MARGIN = 0.1
"""How far it has to be above that of the class itself."""
ACCUSERS = 2
"""Peers that have to accuse: one may be the liar."""
Accusations: TypeAlias = Mapping[tuple[int, int, int], Collection[int]]
"""Who accuses, by institution, by class, and by the class that it is taken for."""


def swapped_pair(
    columns: Tensor, knowledge: Tensor, among: Collection[int]
) -> tuple[int, tuple[int, int]] | None:
    """The institution that most peers accuse of taking two classes for each other, and these.

    Both ways, by two peers or more in all. None: nobody is accused so.

    Args:
        columns: (T, N, K) log-probabilities, centred over classes and samples, of length 1 each.
        knowledge: (T, K) in [0, 1], how well each knows a class.
        among: the classes that are in question: a swap explains two, and no more.
    """
    accusers = _accusations(columns, knowledge)
    found = {}
    for (k, one, other), first in accusers.items():
        second = accusers.get((k, other, one), ())
        peers = {*first, *second}
        if one < other and {one, other} == {*among} and second and len(peers) >= ACCUSERS:
            found[k, (one, other)] = len(peers)
    return max(found, key=lambda each: found[each], default=None)


def _accusations(columns: Tensor, knowledge: Tensor) -> Accusations:
    known = knowledge > KNOWN
    accusers: dict[tuple[int, int, int], set[int]] = defaultdict(set)
    for k, own in enumerate(known):
        mine = own.nonzero()[:, 0]
        for j in range(len(known)):
            both = (own & known[j]).nonzero()[:, 0]
            if j == k or not len(both) or len(mine) < 2:
                continue
            across = columns[k][:, mine].T @ columns[j][:, both]  # (mine, both)
            same = mine[:, None] == both
            best, at = across.masked_fill(same, -1.0).max(0)
            accuses = (best > LEAST_FOLLOWED) & (best - across[same] > MARGIN)
            for c, taken in zip(both[accuses].tolist(), mine[at][accuses].tolist(), strict=True):
                accusers[k, c, taken].add(j)
    return accusers
