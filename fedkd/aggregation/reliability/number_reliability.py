"""Reliability of institutions that predict numbers, estimated from their answers alone.

Nobody has a label. What there is: T institutions' predictions for the same samples. The agreement
of an institution is the correlation, over samples, of its predictions with the median of the
others', which a minority cannot move far. So neither a wider scale nor an offset counts: a linear
model says numbers far from those of trees wherever there are no data, and is honest all the same.

Whoever agrees less than `LEAST_AGREEMENT` is left out, the worst first, and the rest is judged anew
without it. Random and constant predictions have 0, inverted ones less. Where half of all would be
left out, as behind strong noise, or the others' median hardly varies, nothing is concluded of
anybody. What agrees and is wrong, as predictions with an offset are, stays: the fusion rule bounds
what it does.

Source: ours. For classes see `fedkd.aggregation.reliability.class_reliability`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

LEAST_AGREEMENT = 0.1
"""An institution below this is left out."""
LEAST_DEVIATION = 0.005
"""Of the others' median over samples, as a share of the range: with less nothing is concluded."""
LEAST_INSTITUTIONS = 3
"""Of two who differ nobody knows who is right."""


@dataclass(frozen=True)
class NumberReliability:
    """What the answers say of T institutions with K numbers."""

    trusted: Tensor
    """(T, K) bool: whose predictions of which number are fused."""
    agreement: Tensor
    """(T,) the least over its numbers, in [-1, 1]; NaN: nothing to compare with."""


def estimate_number_reliability(values: Tensor, known: Tensor) -> NumberReliability:
    """Who is left out of the fusion of which number.

    Args:
        values: (T, N, K) predictions as shares of the range, in [0, 1].
        known: (T, K) bool: who predicts which number.
    """
    trusted, found = known.clone(), torch.full(known.shape, torch.inf)
    for number in range(known.shape[1]):
        holders = known[:, number].nonzero()[:, 0]
        if len(holders) >= LEAST_INSTITUTIONS:
            trusted[holders, number], found[holders, number] = _judged(values[holders, :, number])
    least = found.amin(1)
    return NumberReliability(trusted, torch.where(least.isinf(), torch.nan, least))


def _judged(own: Tensor) -> tuple[Tensor, Tensor]:
    """Whom to keep, (T,) bool, and agreements (T,), of predictions (T, N) of one number."""
    keep = torch.ones(len(own), dtype=torch.bool)
    while True:
        agreement = torch.stack([_agreement(own, keep, k) for k in range(len(own))])
        worst = int(torch.where(keep, agreement, torch.inf).argmin())
        if not float(agreement[worst]) < LEAST_AGREEMENT:
            return keep, agreement
        keep[worst] = False
        if 2 * int((~keep).sum()) >= len(own):
            return torch.ones_like(keep), agreement


def _agreement(own: Tensor, keep: Tensor, k: int) -> Tensor:
    """Correlation of institution ``k`` with the median of the others that are kept."""
    others = keep.clone()
    others[k] = False
    middle = own[others].quantile(0.5, 0)
    if float(middle.std(correction=0)) < LEAST_DEVIATION:
        return torch.tensor(torch.inf)
    both = torch.stack([own[k], middle]).double()
    both = both - both.mean(1, keepdim=True)
    lengths = both.norm(dim=1).clamp_min(1e-9)
    correlation: Tensor = both[0] @ both[1] / lengths.prod()
    return correlation.float()
