"""Cryptographically secure noise: exact discrete Gaussian, continuous Gaussian, uniform.

All randomness comes from the operating system, fresh at each call. There is no seed, since whoever
knows the seed of noise can subtract it.

OpenDP has a discrete Gaussian too; `tests/fedkd/privacy/test_noise_beside_opendp.py` compares both.
It takes half the time (20 microseconds a draw, and 45 here, beside milliseconds of a teacher), but
its scale is a float, so that a deviation such as 27/10 would not be the one that is charged, and
it would bring a library of 280 MB to every institution in the place of these fifty lines.
"""

import math
import os
import secrets
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedkd.errors import SettingsError

GRID = 2.0**-16
"""Step to which a continuous sum is rounded, relative to a power of two near the deviation."""
LARGEST_DEVIATION = 2**40
"""Of exact noise, in steps of its grid."""


# --- exact, for released answers


def check_deviation(deviation: Fraction) -> None:
    """Refuse a deviation, in steps of the grid, that `discrete_gaussian` cannot draw with.

    Raises:
        SettingsError: it is out of range.
    """
    if not 0 < deviation <= LARGEST_DEVIATION:
        raise SettingsError(
            f"noise of deviation {float(deviation):g} steps of the grid; expected above 0 and at "
            "most 2^40"
        )


def discrete_gaussian(shape: Sequence[int], deviation: Fraction | int) -> Tensor:
    """Whole numbers, each drawn with probability proportional to exp(-n^2 / (2 s^2)), int64.

    Guarantees:
        The distribution is exact: whole numbers and comparisons of them, no floating point.
        Added to a whole-numbered vector of L2 sensitivity D it is D^2 / (2 s^2)-zCDP (Canonne,
        Kamath and Steinke, 2020). How long a draw takes depends on what is drawn, so it has to be
        drawn before the query that it answers is read, or the time disclosed to nobody.

    Args:
        shape: of the result.
        deviation: s, > 0 and at most 2^40, in steps of the grid.

    Raises:
        SettingsError: a deviation out of range.
    """
    scale = Fraction(deviation)
    check_deviation(scale)
    variance, width = scale**2, math.floor(scale) + 1
    drawn = [_gaussian(variance, width) for _ in range(math.prod(shape))]
    return torch.tensor(drawn, dtype=torch.int64).reshape(tuple(shape))


def _gaussian(variance: Fraction, width: int) -> int:
    """Rejection sampling: a proposal of two-sided geometric noise, accepted by a biased coin."""
    top, bottom = variance.numerator, variance.denominator
    # The bias is exp(-(|n| - s^2 / width)^2 / (2 s^2)); here with one common denominator.
    denominator = 2 * top * bottom * width * width
    while True:
        proposal = _two_sided_geometric(width)
        distance = abs(proposal) * width * bottom - top
        if _chance_exp(distance * distance, denominator):
            return proposal


def _two_sided_geometric(width: int) -> int:
    """A whole n, with probability proportional to exp(-|n| / width)."""
    while True:
        rest = secrets.randbelow(width)
        if not _chance_exp(rest, width):
            continue
        whole = 0
        while _chance_exp(1, 1):
            whole += 1
        size, negative = rest + width * whole, secrets.randbits(1)
        if size or not negative:  # else 0 would come twice as often as it should
            return -size if negative else size


def _chance_exp(top: int, bottom: int) -> bool:
    """True with probability exp(-top / bottom), exactly."""
    whole, rest = divmod(top, bottom)
    return all(_chance_exp_below_one(1, 1) for _ in range(whole)) and _chance_exp_below_one(
        rest, bottom
    )


def _chance_exp_below_one(top: int, bottom: int) -> bool:
    """The same for top <= bottom, by the alternating series of exp."""
    k = 1
    while secrets.randbelow(bottom * k) < top:
        k += 1
    return k % 2 == 1


# --- continuous, for the gradients of a training


def uniform(count: int) -> NDArray[np.float64]:
    """(count,) uniform in (0, 1), of 53 random bits each."""
    bits = np.frombuffer(os.urandom(8 * count), dtype=np.uint64) >> np.uint64(11)
    unit: NDArray[np.float64] = (bits.astype(np.float64) + 0.5) * 2.0**-53
    return unit


def with_gaussian_noise(values: Tensor, deviation: float) -> Tensor:
    """``values`` plus Gaussian noise on each, in their type.

    Guarantees:
        The noise cannot be predicted, and is drawn and added in double precision. The sum is
        rounded to a grid that depends on the deviation alone, so that its last digits tell
        nothing of ``values``. This is no proof for floating point: the accountant's mathematics
        is that of real numbers, and a release that must stand on a proof takes
        `discrete_gaussian`.

    Args:
        values: any shape, floating.
        deviation: > 0.

    Raises:
        SettingsError: a deviation out of range.
    """
    if not 0 < deviation < math.inf:
        raise SettingsError(f"noise of deviation {deviation}; expected above 0")
    count = values.numel()
    half = (count + 1) // 2
    radius = np.sqrt(-2 * np.log(uniform(half)))
    angle = 2 * math.pi * uniform(half)
    normal = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]
    step = GRID * 2.0 ** math.floor(math.log2(deviation))
    noise = torch.from_numpy(deviation * normal).reshape(values.shape)
    noisy: Tensor = ((values.double() + noise) / step).round_() * step
    return noisy.to(values.dtype)
