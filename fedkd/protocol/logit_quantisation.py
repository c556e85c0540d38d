"""Quantisation of logits: each row rounded to a uniform grid of its own.

A row is the logits of one sample. Its grid is the whole multiples of 2**k, with the least k for
which the row spans at most 255 steps and float16 holds every one of its numbers exactly. Such a row
can be sent as an exponent, a first step and one byte for each number, without any further loss; see
`fedkd.wire.logit_packing`.

Rounding moves a number by half a step at most, never changes the order of two, makes those equal
that lie within a step of each other at most, and moves softmax(row) by a Kullback-Leibler
divergence of at most step**2 / 8 (Hoeffding's lemma): a five-hundredth of a nat at the coarsest.
"""

import torch
from torch import Tensor

MAX_STEPS = 255
"""Steps from the least number of a row to its greatest, at most."""
MAX_STEP_INDEX = 2047
"""Steps from zero, at most: float16 has eleven bits of them."""
MIN_EXPONENT, MAX_EXPONENT = -24, 5
"""Exponents of steps: of float16's least number, and of its greatest over `MAX_STEP_INDEX`."""
MAX_SPAN_EXPONENT = -3
"""Exponent of the longest step that a row's span may make necessary. A row that spans more than
31.9 is left to float16, since steps of a quarter would begin to be felt."""

STEP_LENGTHS = torch.tensor([2.0**k for k in range(MIN_EXPONENT, MAX_EXPONENT + 1)])
"""Lengths of steps, by index."""
UNQUANTISED = len(STEP_LENGTHS)
"""The index of a row that has no grid."""

_SPANS = (MAX_STEPS * STEP_LENGTHS).clamp_max(MAX_STEPS * 2.0**MAX_SPAN_EXPONENT)
_MAXIMA = MAX_STEP_INDEX * STEP_LENGTHS
# Of a row without a grid the steps are never looked at; a zero keeps them finite.
_LENGTHS = torch.cat([STEP_LENGTHS, torch.zeros(1)])
_PER_UNIT = torch.cat([1 / STEP_LENGTHS, torch.zeros(1)])


def quantisation_steps(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Quantise rows to whole steps of their grids.

    Args:
        rows: (B, K) float32, K >= 1; a row with a NaN or an infinity has no grid.

    Returns:
        (B,) indices into `STEP_LENGTHS`, or `UNQUANTISED`; and, in whole steps from zero, (B,) the
        least number of each row and (B, K) all of them, float32.
    """
    low, high = torch.aminmax(rows, dim=1)
    largest = torch.maximum(-low, high)
    indices = torch.maximum(torch.bucketize(high - low, _SPANS), torch.bucketize(largest, _MAXIMA))
    per_unit = _PER_UNIT.index_select(0, indices)
    first = (low * per_unit).round_()
    steps = (rows * per_unit[:, None]).round_()
    # Ties go to the even step, so that a span of 255 steps may become one of 256.
    torch.minimum(steps, (first + MAX_STEPS)[:, None], out=steps)
    return indices, first, steps.add_(0.0)  # a step of zero has no sign


def step_length(indices: Tensor) -> Tensor:
    """Lengths of the steps at these indices, (B,) -> (B, 1) float32; 0 at `UNQUANTISED`."""
    return _LENGTHS.index_select(0, indices)[:, None]


def quantised(rows: Tensor) -> Tensor:
    """(B, K) float32 rows quantised to float16: each on its grid, or rounded where it has none.

    What lies out of float16's range becomes its greatest number.
    """
    indices, _, steps = quantisation_steps(rows)
    values = steps.mul_(step_length(indices))
    unquantised = indices == UNQUANTISED
    if bool(unquantised.any()):
        most = torch.finfo(torch.float16).max
        values = torch.where(unquantised[:, None], rows.clamp(-most, most), values)
    return values.half()
