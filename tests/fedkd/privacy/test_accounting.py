"""Privacy is counted as others count it, rounded to the safe side, and never on bad input."""

import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.accountants import RDPAccountant
from opacus.accountants.analysis.rdp import compute_rdp
from scipy.special import logsumexp

from fedkd.errors import SettingsError
from fedkd.privacy import (
    MICRO_PER_RHO,
    Event,
    calibrated_noise_multiplier,
    epsilon_of_events,
    epsilon_of_rho,
    gaussian_cost,
    parallel_composition,
    rho_of_epsilon,
)

GOLDEN = json.loads(Path(__file__).with_name("golden_accounting.json").read_text())
"""Written by `crosscheck_accounting.py`, which asks dp-accounting."""
DELTA = GOLDEN["delta"]
NOT_ABOVE_0 = [0.0, -1.0, math.nan, math.inf, -math.inf]


@pytest.mark.parametrize("case", GOLDEN["dp_sgd"], ids=lambda case: str(case["event"]))
def test_dp_sgd_costs_what_dp_accounting_says(case: dict[str, Any]) -> None:
    noise, rate, steps = case["event"]
    event = [Event(noise, rate, steps)]
    opacus = RDPAccountant()
    opacus.history = [(noise, rate, steps)]
    whole = opacus.get_epsilon(DELTA, alphas=list(range(2, 64)))
    assert whole == pytest.approx(case["rdp"], abs=5e-5)
    assert case["pld"] < epsilon_of_events(event, DELTA, "rdp") <= whole
    # prv is an upper bound that is 0.01 wide.
    assert case["pld"] - 1e-3 <= epsilon_of_events(event, DELTA, "prv") <= case["pld"] + 0.02


FRACTIONAL = [1 + tenth / 10 for tenth in range(1, 100) if tenth % 10]
"""Orders between whole ones, as the accountant tries them."""


def integrated(order: float, noise: float, rate: float, points: int = 20_001) -> float:
    """The Renyi divergence of a step from one that an image had no part in, by the definition.

    log E[((1 - q) + q exp((2 z - 1) / (2 s^2)))^a] / (a - 1) for z of N(0, s^2); the sum over an
    even grid of so smooth a function is exact to about the last digit. (The other direction is
    the lesser one: Mironov, Talwar and Zhang, 2019.)
    """
    z = np.linspace(-20 * noise, order + 20 * noise, points)
    ratio = np.logaddexp(np.log1p(-rate), np.log(rate) + (2 * z - 1) / (2 * noise**2))
    density = -0.5 * (z / noise) ** 2 - np.log(noise * math.sqrt(2 * math.pi))
    log_moment = logsumexp(density + order * ratio) + np.log(z[1] - z[0])
    return float(log_moment / (order - 1))


@pytest.mark.parametrize(
    "case", [c for c in GOLDEN["dp_sgd"] if c["event"][1] < 1], ids=lambda case: str(case["event"])
)
def test_between_whole_orders_rdp_is_what_the_integral_says(case: dict[str, Any]) -> None:
    noise, rate, steps = case["event"]
    ours = steps * compute_rdp(q=rate, noise_multiplier=noise, steps=1, orders=FRACTIONAL)
    exact = [steps * integrated(order, noise, rate) for order in FRACTIONAL]
    assert ours == pytest.approx(exact, abs=5e-5)
    assert exact[::20] == pytest.approx(
        [steps * integrated(order, noise, rate, 9_001) for order in FRACTIONAL[::20]], abs=1e-7
    ), "the grid is fine enough"
    orders = [*FRACTIONAL, *range(2, 64)]
    curve = zip(
        orders, exact + [steps * integrated(a, noise, rate) for a in orders[90:]], strict=True
    )
    # Canonne, Kamath and Steinke (2020), Proposition 12.
    epsilon = min(
        rdp + math.log1p(-1 / a) - (math.log(DELTA) + math.log(a)) / (a - 1) for a, rdp in curve
    )
    events = [Event(noise, rate, steps)]
    assert epsilon_of_events(events, DELTA, "rdp") == pytest.approx(epsilon, abs=5e-5)


def test_the_integral_is_right_where_the_answer_is_known() -> None:
    for order, noise in ((1.5, 1.0), (3.7, 2.0), (10.9, 0.9)):
        assert integrated(order, noise, 1 - 1e-12) == pytest.approx(
            order / (2 * noise**2), abs=1e-6
        )


def test_different_events_add_up_as_dp_accounting_says() -> None:
    mixed = GOLDEN["mixed"]
    events = [Event(*each) for each in mixed["events"]]
    assert epsilon_of_events(events, DELTA, "rdp") == pytest.approx(mixed["rdp"], abs=1e-3)
    assert mixed["pld"] - 1e-3 <= epsilon_of_events(events, DELTA) <= mixed["pld"] + 0.02
    assert epsilon_of_events([], DELTA) == 0


@pytest.mark.parametrize("case", GOLDEN["gaussian"], ids=lambda case: f"mu={case['mu']}")
def test_zcdp_is_an_upper_bound_and_a_near_one(case: dict[str, float]) -> None:
    rho = gaussian_cost(Fraction(case["mu"]), 1)
    assert case["exact"] < epsilon_of_rho(rho, DELTA) < 1.1 * case["exact"] + 0.01


def test_the_conversion_holds_at_every_order() -> None:
    for micro in (1, 10_000, 500_000, 8 * MICRO_PER_RHO):
        epsilon, rho = epsilon_of_rho(micro, DELTA), micro / MICRO_PER_RHO
        # The definition from the other side: no order gives a delta below what was asked for.
        orders = (1 + math.exp(step / 50) for step in range(-1000, 1000))
        least = min(
            (a - 1) * (a * rho - epsilon) - math.log(a - 1) + a * math.log1p(-1 / a) for a in orders
        )
        assert least == pytest.approx(math.log(DELTA), abs=0.02)


@settings(max_examples=60, deadline=None)
@given(
    st.fractions(Fraction(1, 1000), 1000),
    st.fractions(Fraction(1, 1000), 1000),
    st.integers(1, 10**6),
)
def test_charges_are_never_less_than_what_is_spent(
    sensitivity: Fraction, deviation: Fraction, rows: int
) -> None:
    cost = gaussian_cost(sensitivity, deviation, rows)
    exact = rows * sensitivity**2 / (2 * deviation**2) * MICRO_PER_RHO
    assert isinstance(cost, int)
    assert exact <= cost < exact + 1
    one_by_one = rows * gaussian_cost(sensitivity, deviation)
    assert one_by_one >= cost, "many small charges may cost more, never less"


@settings(max_examples=40, deadline=None)
@given(st.floats(0.01, 50), st.floats(1e-9, 0.1))
def test_a_cap_is_the_most_that_keeps_its_promise(epsilon: float, delta: float) -> None:
    cap = rho_of_epsilon(epsilon, delta)
    assert epsilon_of_rho(cap, delta) <= epsilon < epsilon_of_rho(cap + 1, delta)


@pytest.mark.parametrize(("epsilon", "accountant"), [(0.5, "prv"), (3.0, "prv"), (3.0, "rdp")])
def test_calibrated_noise_ends_a_little_below_its_target(epsilon: float, accountant: str) -> None:
    noise = calibrated_noise_multiplier(epsilon, DELTA, 0.05, 50, accountant)
    reached = epsilon_of_events([Event(noise, 0.05, 50)], DELTA, accountant)
    assert epsilon - 0.01 < reached <= epsilon
    with_less = epsilon_of_events([Event(noise * 0.97, 0.05, 50)], DELTA, accountant)
    assert with_less > epsilon - 0.005


def test_epsilon_grows_with_steps_and_chance_and_falls_with_noise() -> None:
    def epsilon(noise: float = 2.0, rate: float = 0.05, steps: int = 100) -> float:
        return epsilon_of_events([Event(noise, rate, steps)], DELTA)

    assert epsilon() < min(epsilon(noise=1.5), epsilon(rate=0.08), epsilon(steps=150))


def test_what_nothing_can_keep_is_refused() -> None:
    with pytest.raises(SettingsError, match="out of reach"):
        calibrated_noise_multiplier(1e-3, 1e-9, 1.0, 1, "rdp")


@pytest.mark.parametrize("bad", NOT_ABOVE_0)
def test_no_number_is_trusted(bad: float) -> None:
    refused = [
        lambda: Event(bad, 0.1, 1),
        lambda: Event(1.0, bad, 1),
        lambda: epsilon_of_events([Event(1.0, 0.1, 1)], bad),
        lambda: epsilon_of_rho(1, bad),
        lambda: rho_of_epsilon(bad, DELTA),
        lambda: calibrated_noise_multiplier(bad, DELTA, 0.1, 1),
        lambda: parallel_composition([(bad, DELTA)]),
        lambda: parallel_composition([(1.0, bad)]),
    ]
    for each in refused:
        with pytest.raises(SettingsError):
            each()


def test_more_that_is_refused() -> None:
    for rate, steps in ((1.0001, 1), (0.1, 0), (0.1, -1), (0.1, True), (0.1, 1.5)):
        with pytest.raises(SettingsError):
            Event(1.0, rate, steps)  # type: ignore[arg-type]
    for sensitivity, deviation, rows in ((0, 1, 1), (1, 0, 1), (-1, 1, 1), (1, -1, 1), (1, 1, 0)):
        with pytest.raises(SettingsError):
            gaussian_cost(sensitivity, deviation, rows)
    for micro in (-1, 10**13):
        with pytest.raises(SettingsError):
            epsilon_of_rho(micro, DELTA)
    with pytest.raises(SettingsError, match="prv, rdp"):
        epsilon_of_events([Event(1.0, 0.1, 1)], DELTA, "gdp")


def test_disjoint_institutions_promise_the_worst_of_theirs() -> None:
    assert parallel_composition([(3.0, 1e-5), (1.0, 1e-4), (8.0, 1e-6)]) == (8.0, 1e-4)
    with pytest.raises(SettingsError):
        parallel_composition([])
