"""Differential privacy: accounting, budgets, noise mechanisms and the owner's release policy.

The audits, `empirical_epsilon` and `membership_inference`, are imported from their modules, since
they need scipy.
"""

from fedkd.privacy.accounting import (
    ACCOUNTANTS,
    MICRO_PER_RHO,
    Event,
    calibrated_noise_multiplier,
    epsilon_of_events,
    epsilon_of_rho,
    gaussian_cost,
    min_deviation,
    parallel_composition,
    rho_of_epsilon,
    squared_cost,
)
from fedkd.privacy.budget import Budget, Spending
from fedkd.privacy.mechanisms import (
    ClippedGaussian,
    Mechanism,
    NoisyArgmax,
    RangedGaussian,
)
from fedkd.privacy.noise import discrete_gaussian, uniform, with_gaussian_noise
from fedkd.privacy.release_policy import MODES, Mode, Policy, budget_refusal

__all__ = [
    "ACCOUNTANTS",
    "MICRO_PER_RHO",
    "MODES",
    "Budget",
    "ClippedGaussian",
    "Event",
    "Mechanism",
    "Mode",
    "NoisyArgmax",
    "Policy",
    "RangedGaussian",
    "Spending",
    "budget_refusal",
    "calibrated_noise_multiplier",
    "discrete_gaussian",
    "epsilon_of_events",
    "epsilon_of_rho",
    "gaussian_cost",
    "min_deviation",
    "parallel_composition",
    "rho_of_epsilon",
    "squared_cost",
    "uniform",
    "with_gaussian_noise",
]
