"""Differential privacy: accounting, budgets, noise mechanisms and the owner's release policy.

The audits, `empirical_epsilon` and `membership_inference`, are imported from their modules, since
they need scipy.
"""

from fedkd.privacy.accounting import (
    ACCOUNTANTS,
    MICRO,
    Event,
    calibrated,
    epsilon_of_events,
    epsilon_of_rho,
    gaussian_cost,
    in_parallel,
    least_deviation,
    rho_of_epsilon,
    squared_cost,
)
from fedkd.privacy.budget import Budget, Spending
from fedkd.privacy.mechanisms import ClippedGaussian, Mechanism, NoisyArgmax
from fedkd.privacy.noise import discrete_gaussian, uniform, with_gaussian
from fedkd.privacy.release_policy import MODES, Mode, Policy, overspent

__all__ = [
    "ACCOUNTANTS",
    "MICRO",
    "MODES",
    "Budget",
    "ClippedGaussian",
    "Event",
    "Mechanism",
    "Mode",
    "NoisyArgmax",
    "Policy",
    "Spending",
    "calibrated",
    "discrete_gaussian",
    "epsilon_of_events",
    "epsilon_of_rho",
    "gaussian_cost",
    "in_parallel",
    "least_deviation",
    "overspent",
    "rho_of_epsilon",
    "squared_cost",
    "uniform",
    "with_gaussian",
]
