"""A run that a check keeps: made where its folder is empty, and used again where it is there."""

import json
from pathlib import Path

from fedkd.errors import SettingsError
from fedkd.experiment import Experiment
from fedkd.server.report.records.run_folder import RESULT
from fedkd.simulations.run import run


def make_once(experiment: Experiment, folder: Path) -> None:
    """Run ``experiment`` into ``folder``, unless its result stands there already.

    Raises:
        SettingsError: the folder holds a run of other settings.
        FedkdError: as `fedkd.simulations.run.run`.
    """
    if not (folder / RESULT).exists():
        run(experiment, "local", folder)
    elif json.loads((folder / RESULT).read_text()).get("config") != experiment.model_dump(
        mode="json"
    ):
        raise SettingsError(f"{folder} holds a run of other settings; name another --out")
