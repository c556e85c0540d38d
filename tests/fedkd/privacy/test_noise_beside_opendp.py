"""The discrete Gaussian beside OpenDP's: two independent programs draw from one distribution.

OpenDP's scale is a float and its generator OpenSSL's; ours takes fractions and the system's bytes.
Neither has a seed: each test may fail once in a million runs.
"""

import math
from fractions import Fraction

import numpy as np
import opendp.prelude as dp
import pytest
from scipy import stats

from fedkd.privacy import discrete_gaussian, epsilon_of_rho, gaussian_cost

COUNT = 5_000
ONE_IN_A_MILLION = 1e-6
dp.enable_features("contrib")


def gaussian_of_opendp(deviation: float) -> dp.Measurement:
    space = dp.vector_domain(dp.atom_domain(T="i64")), dp.l2_distance(T="f64")
    return dp.m.make_gaussian(*space, deviation)


def alike(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Pearson's chi-square of two samples, in cells of equal shares of both."""
    both = np.concatenate([ours, theirs])
    cells = np.unique(np.quantile(both, np.linspace(0, 1, 21)[1:-1], method="nearest"))
    table = [
        np.bincount(np.searchsorted(cells, each), minlength=len(cells) + 1)
        for each in (ours, theirs)
    ]
    counts = np.array(table)[:, np.sum(table, axis=0) > 0]
    return bool(stats.chi2_contingency(counts).pvalue > ONE_IN_A_MILLION)


@pytest.mark.parametrize(
    "deviation", [Fraction(1, 2), Fraction(27, 10), Fraction(40), Fraction(2**30)]
)
def test_both_draw_the_same_discrete_gaussian(deviation: Fraction) -> None:
    ours = discrete_gaussian((COUNT,), deviation).numpy()
    theirs = gaussian_of_opendp(float(deviation))([0] * COUNT)
    assert alike(ours, np.array(theirs))
    wrong = gaussian_of_opendp(float(deviation) * 1.5)([0] * COUNT)
    assert not alike(ours, np.array(wrong))


@pytest.mark.parametrize(("sensitivity", "deviation"), [(1, 3), (2, 5), (16, 40)])
def test_both_charge_the_same_for_it(sensitivity: int, deviation: int) -> None:
    """rho, and epsilon: OpenDP converts by the same theorem, and searches less finely."""
    micro_rho = gaussian_cost(sensitivity, deviation)
    gaussian = gaussian_of_opendp(float(deviation))
    assert micro_rho == math.ceil(1e6 * gaussian.map(float(sensitivity)) * (1 - 1e-12))
    converted = dp.c.make_zCDP_to_approxDP(gaussian).map(float(sensitivity))
    theirs = converted.epsilon(1e-5)
    assert epsilon_of_rho(micro_rho, 1e-5) == pytest.approx(theirs, rel=1e-3)
