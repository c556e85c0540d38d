"""Which institutions take classes for other ones, by what each of the others says of them.

Under label skew shuffled classes agree with the others a little, by chance: enough to be kept. What
gives them away is another order of the classes that agrees much more. So for each pair, every class
that the peer knows is matched with the class whose answers follow the peer's best, no two with the
same, the closest first; a pair where that is far better than each class with itself speaks against
the institution.

Two classes that are taken for each other alone are left to `swapped_classes`: all else is true.

Source: ours. The matching is greedy: the best one (Kuhn, 1955) would need a library on servers that
has no other use there, and decides nothing more.
"""

import torch
from torch import Tensor

from fedkd.aggregation.reliability.pairwise_accusations import accused_institutions

LEAST_GAIN = 0.2
"""Of the mean correlation by another order of the classes."""
MOST_AGREEMENT = 0.15
"""Mean correlation of each class with itself above which an institution is not accused."""
MOST_MOVED = 0.75
"""Share of the classes that the other order has to move."""
LEAST_KNOWN = 0.5
"""Weight from which an institution counts as knowing a class; 1 is averagely."""
LEAST_CLAIMED = 0.1
"""Weight from which its answers on a class may be those on another."""


def relabelling_institutions(columns: Tensor, knowledge: Tensor, claims: Tensor) -> set[int]:
    """Institutions whose answers on most classes follow the others' on other classes.

    Args:
        columns: (T, N, K) log-probabilities, centred over classes and samples, of length 1 each.
        knowledge: (T, K) in [0, 1]: how well each knows a class, as its answers show.
        claims: (T, K) in [0, 1]: how well each claims to know it.
    """
    count = len(columns)
    accused = torch.zeros(count, count, dtype=torch.bool)
    judged = torch.zeros_like(accused)
    for k in range(count):
        candidates = (claims[k] > LEAST_CLAIMED).nonzero()[:, 0]
        for j in range(count):
            shared = ((claims[k] > LEAST_KNOWN) & (knowledge[j] > LEAST_KNOWN)).nonzero()[:, 0]
            if j != k and len(shared) >= 2:
                judged[k, j] = True
                accused[k, j] = _is_relabelled(columns[k], columns[j], candidates, shared)
    return accused_institutions(accused, judged)


def _is_relabelled(one: Tensor, peer: Tensor, candidates: Tensor, shared: Tensor) -> bool:
    """Whether another order of the classes agrees much more.

    Args:
        one: (N, K) columns of the institution in question.
        peer: (N, K) columns of the peer.
        candidates: classes that the one may have meant.
        shared: classes that both know.
    """
    own = float((one[:, shared] * peer[:, shared]).sum(0).mean())
    if own >= MOST_AGREEMENT:
        return False
    across = one[:, candidates].T @ peer[:, shared]
    pairs = _matched(across)
    matched = [(int(candidates[row]), int(shared[column])) for row, column in pairs]
    moved = {(meant, said) for meant, said in matched if meant != said}
    if len(moved) < max(2, MOST_MOVED * len(shared)):
        return False
    if len(moved) == 2 and all((b, a) in moved for a, b in moved):
        return False  # a swap
    gained = sum(float(across[pair]) for pair in pairs) / len(pairs) - own
    return gained >= LEAST_GAIN


def _matched(across: Tensor) -> list[tuple[int, int]]:
    """Row and column of each match in (R, C), the largest first, none of either twice."""
    left, found = across.clone(), list[tuple[int, int]]()
    for _ in range(min(across.shape)):
        row, column = divmod(int(left.argmax()), left.shape[1])
        found.append((row, column))
        left[row], left[:, column] = -torch.inf, -torch.inf
    return found
