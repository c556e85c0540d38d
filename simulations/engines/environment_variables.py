"""Environment variables that switch off telemetry and update checks of Flower and Ray."""

import os

ENVIRONMENT_DEFAULTS: dict[str, str] = {
    # Flower reports usage to its maker, looks for newer releases, and fetches a bundle's
    # dependencies over those that are installed, all unless it is told not to.
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    # So does Ray report; and under `uv run` its workers would resolve the project anew.
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    # Says that a future default of Ray's is welcome, and that it need not warn of it.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # A process that forks with a gRPC stream open hangs, unless gRPC leaves forks alone.
    "GRPC_ENABLE_FORK_SUPPORT": "0",
    # gRPC's core writes to the terminal what our own errors say in one line.
    "GRPC_VERBOSITY": "NONE",
}
"""Set for every process that fedkd starts."""


def set_environment_defaults() -> None:
    """Set `ENVIRONMENT_DEFAULTS` for this process and its children, where a user has not.

    To be called before Flower, Ray or gRPC is imported: each reads its variables once.
    """
    for name, value in ENVIRONMENT_DEFAULTS.items():
        os.environ.setdefault(name, value)
