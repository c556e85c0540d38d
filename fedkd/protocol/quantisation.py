"""Rows of scores on grids: how answers are rounded. Knows no signal, no model and no wire.

A row is what is said of one image. Its grid is the whole multiples of 2**k, with the least k for
which the row spans at most 255 steps and float16 holds every one of its numbers exactly. Such a row
can be told in an exponent, a first step and a byte a number (`fedkd.wire.packed_rows`), losing nothing.

Rounding moves a number by half a step at most, never changes the order of two, makes those equal
that lie within a step of each other at most, and moves softmax(row) by a Kullback-Leibler
divergence of at most step**2 / 8 (Hoeffding's lemma): a five-hundredth of a nat at the coarsest.
"""

import torch
from torch import Tensor

SPAN = 255
"""Steps from the least number of a row to its greatest, at most."""
FARTHEST = 2047
"""Steps from zero, at most: float16 has eleven bits of them."""
FINEST, COARSEST = -24, 5
"""Exponents of steps: of float16's least number, and of its greatest over `FARTHEST`."""
WIDEST = -3
"""Exponent of the longest step that a row's span may make necessary. A row that spans more than
31.9 is left to float16, since steps of a quarter would begin to be felt."""

STEPS = torch.tensor([2.0**k for k in range(FINEST, COARSEST + 1)])
"""Lengths of steps, by place."""
NONE = len(STEPS)
"""The place of a row that has no grid."""

_SPANS = (SPAN * STEPS).clamp_max(SPAN * 2.0**WIDEST)
_REACHES = FARTHEST * STEPS
# Of a row without a grid the steps are never looked at; a zero keeps them finite.
_LENGTHS = torch.cat([STEPS, torch.zeros(1)])
_PER_UNIT = torch.cat([1 / STEPS, torch.zeros(1)])


def steps_of(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where rows lie on their grids.

    Args:
        rows: (B, K) float32, K >= 1; a row with a NaN or an infinity has no grid.

    Returns:
        (B,) places in `STEPS`, or `NONE`; and, in whole steps from zero, (B,) the least number of
        each row and (B, K) all of them, float32.
    """
    low, high = torch.aminmax(rows, dim=1)
    reach = torch.maximum(-low, high)
    places = torch.maximum(torch.bucketize(high - low, _SPANS), torch.bucketize(reach, _REACHES))
    per_unit = _PER_UNIT.index_select(0, places)
    first = (low * per_unit).round_()
    steps = (rows * per_unit[:, None]).round_()
    # Ties go to the even step, so that a span of 255 steps may become one of 256.
    torch.minimum(steps, (first + SPAN)[:, None], out=steps)
    return places, first, steps.add_(0.0)  # a step of zero has no sign


def length(places: Tensor) -> Tensor:
    """Of the steps at these places, (B,) -> (B, 1) float32; 0 at `NONE`."""
    return _LENGTHS.index_select(0, places)[:, None]


def on_grids(rows: Tensor) -> Tensor:
    """(B, K) float32 rows as float16: each on its grid, or as near as float16 comes.

    What lies out of float16's range becomes its greatest number.
    """
    places, _, steps = steps_of(rows)
    on = steps.mul_(length(places))
    none = places == NONE
    if bool(none.any()):
        largest = torch.finfo(torch.float16).max
        on = torch.where(none[:, None], rows.clamp(-largest, largest), on)
    return on.half()
