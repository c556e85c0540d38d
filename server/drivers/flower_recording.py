"""A run through Flower from a ServerApp: drive it, and write its folder."""

import logging
import time
from collections.abc import Mapping
from pathlib import Path

from flwr.serverapp import Grid

from fedkd.experiment import Experiment
from fedkd.server.coordinator import StudentFactory
from fedkd.server.drivers.flower_driver import ROUNDS, distil_over_flower
from fedkd.server.hub.tls_certificates import server_credentials
from fedkd.server.run.run_recorder import Evaluation, RunRecorder, traffic_of

log = logging.getLogger("flwr")


def record_over_flower(
    grid: Grid,
    experiment: Experiment,
    config: Mapping[str, str],
    build: StudentFactory | None = None,
) -> Path:
    """Distil the student of an experiment over a grid, and write the run's folder.

    Args:
        grid: as a ServerApp is given it.
        experiment: resolved.
        config: of the run: ``out`` (folder), ``rounds``, ``advertised`` (address to which
            institutions connect) and ``tls`` (folder of certificates), each of which may be absent.
        build: makes the student, where it is not the one that the experiment names.

    Returns:
        The folder.

    Raises:
        SettingsError: the experiment names something that does not exist.
        QuorumLost: too few institutions connected, or answered.
    """
    tls = config.get("tls")
    credentials = server_credentials(Path(tls)) if tls else None
    stamp = time.strftime("%Y%m%d-%H%M%S")
    path = Path(config.get("out") or f"runs/{experiment.name}-{stamp}").resolve()
    recorder = RunRecorder(path, experiment, "flower")
    outcome = distil_over_flower(
        grid,
        experiment,
        path / "institutions",
        recorder,
        int(config.get("rounds") or ROUNDS),
        advertised=config.get("advertised", ""),
        credentials=credentials,
        begun=recorder.begin,
        build=build,
    )
    traffic = {name: traffic_of(of.counts) for name, of in outcome.counters.items()}
    # Institutions that connect over TLS are real: their teachers are not the experiment's.
    simulated = not tls and build is None
    evaluation = Evaluation(student=outcome.scores, simulated=simulated)
    recorder.finish(outcome.distilled, outcome.cards, traffic, evaluation)
    log.info("The report is %s", path / "report.html")
    return path
