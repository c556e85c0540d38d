"""Noise has the scale that is claimed, and neither two thirds nor three halves of it.

It has no seed, so that these tests draw anew each time: each may fail once in a million runs.
"""

import math
import random
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy import stats

from fedkd.errors import SettingsError
from fedkd.privacy import discrete_gaussian, uniform, with_gaussian_noise

ONE_IN_A_MILLION = 1e-6


def discretely_normal(drawn: torch.Tensor, deviation: float | Fraction) -> bool:
    """Pearson's chi-square against the exact probabilities."""
    reach = math.ceil(12 * deviation) + 1
    places = np.arange(-reach, reach + 1)
    deviation = float(deviation)
    probability = np.exp(-(places**2) / (2 * deviation**2))
    expected = len(drawn) * probability / probability.sum()
    observed = np.bincount(drawn.clamp(-reach, reach).numpy() + reach, minlength=2 * reach + 1)
    common = expected >= 10
    rest = (observed[~common].sum(), max(expected[~common].sum(), 1e-9))
    counts = [*zip(observed[common], expected[common], strict=True)]
    if rest[1] >= 10:
        counts.append(rest)
    elif rest[0] > 60:
        return False
    chi_square = sum((o - e) ** 2 / e for o, e in counts)
    return bool(stats.chi2.sf(chi_square, len(counts) - 1) > ONE_IN_A_MILLION)


def normal(drawn: torch.Tensor, deviation: float) -> bool:
    """Kolmogorov and Smirnov."""
    tested = stats.kstest(drawn.double().flatten().numpy(), "norm", (0, deviation))
    return bool(tested.pvalue > ONE_IN_A_MILLION)


@pytest.mark.parametrize("deviation", [Fraction(1, 2), Fraction(3), Fraction(27, 10)])
def test_the_discrete_gaussian_is_one(deviation: Fraction) -> None:
    drawn = discrete_gaussian((5_000,), deviation)
    assert drawn.dtype == torch.int64
    assert discretely_normal(drawn, deviation)
    for wrong in (Fraction(2, 3), Fraction(3, 2)):
        assert not discretely_normal(drawn, deviation * wrong)
        assert not discretely_normal(discrete_gaussian((5_000,), wrong * deviation), deviation)


def test_wide_discrete_noise_is_nearly_continuous() -> None:
    deviation = 10**5
    drawn = discrete_gaussian((5_000,), deviation)
    assert normal(drawn, deviation)
    assert not normal(drawn, deviation * 2 / 3)
    assert not normal(drawn, deviation * 3 / 2)


def test_an_answer_has_noise_of_its_shape_in_every_place() -> None:
    drawn = discrete_gaussian((64, 10), 2**30)
    assert drawn.shape == (64, 10)
    assert drawn.unique().numel() > 600
    assert discrete_gaussian((0, 10), 3).shape == (0, 10)


@pytest.mark.parametrize("values", [torch.zeros(20_000), torch.linspace(-300, 300, 20_000)])
def test_continuous_noise_is_gaussian_whatever_it_hides(values: torch.Tensor) -> None:
    noise = with_gaussian_noise(values, 0.7).double() - values.double()
    assert normal(noise, 0.7)
    for wrong in (2 / 3, 3 / 2):
        assert not normal(noise, 0.7 * wrong)
        assert not normal(with_gaussian_noise(values, 0.7 * wrong).double() - values.double(), 0.7)


def test_the_last_digits_of_a_noisy_value_do_not_depend_on_it() -> None:
    step = 2.0**-16 / 2  # 0.7 lies above 1/2
    for value in (0.0, 1.0, math.pi):
        noisy = with_gaussian_noise(torch.full((1000,), value, dtype=torch.float64), 0.7)
        assert torch.equal(noisy, (noisy / step).round() * step)


def test_chances_are_uniform() -> None:
    drawn = uniform(50_000)
    assert stats.kstest(drawn, "uniform").pvalue > ONE_IN_A_MILLION
    assert stats.kstest(drawn**1.5, "uniform").pvalue < ONE_IN_A_MILLION
    assert 0 < drawn.min() < drawn.max() < 1


@pytest.mark.parametrize(
    "draw",
    [
        lambda: discrete_gaussian((50,), 10**6),
        lambda: with_gaussian_noise(torch.zeros(50), 1.0),
        lambda: torch.from_numpy(uniform(50)),
    ],
)
def test_no_seed_repeats_it(draw: Callable[[], torch.Tensor]) -> None:
    drawn = []
    for _ in range(2):
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        drawn.append(draw())
    assert not (drawn[0] == drawn[1]).any()


@pytest.mark.parametrize("bad", [0, -1])
def test_no_noise_is_no_mechanism(bad: int) -> None:
    with pytest.raises(SettingsError):
        discrete_gaussian((1,), bad)
    with pytest.raises(SettingsError):
        with_gaussian_noise(torch.zeros(1), bad)
    with pytest.raises(SettingsError):
        with_gaussian_noise(torch.zeros(1), math.nan)
    with pytest.raises(SettingsError):
        discrete_gaussian((1,), 2**41)
