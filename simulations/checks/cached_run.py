"""Cached runs: an experiment is run once into its folder, and its result used again after that."""

import json
from pathlib import Path

from fedkd.errors import SettingsError
from fedkd.experiment import Experiment
from fedkd.server.report.records.run_folder import RESULT
from fedkd.simulations.run import run


def run_cached(experiment: Experiment, folder: Path) -> None:
    """Run ``experiment`` into ``folder``, unless its result stands there already.

    Raises:
        SettingsError: the folder holds a run of other settings.
        FedkdError: as `fedkd.simulations.run.run`.
    """
    result = folder / RESULT
    if not result.exists():
        run(experiment, "local", folder)
    elif json.loads(result.read_text()).get("config") != experiment.model_dump(mode="json"):
        raise SettingsError(f"{folder} holds a run of other settings; name another --out")
