"""The coordinator's Flower ServerApp: run the experiment that the run configuration names.

The coordinator has no data; scores are those that institutions report.
"""

import logging
import time
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedkd.experiment import load_experiment
from fedkd.server.drivers.flower_driver import ROUNDS, distil_over_flower
from fedkd.server.hub.tls_certificates import server_credentials
from fedkd.server.run.run_recorder import Evaluation, RunRecorder, traffic_of

app = ServerApp()
log = logging.getLogger("flwr")


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the experiment that the run configuration names, and write its folder."""
    config = {key: str(value) for key, value in context.run_config.items()}
    overrides = [*config.get("set", "").split(), f"seed={config['seed']}"]
    if address := config.get("address"):
        overrides.append(f"questions.address={address}")
    experiment = load_experiment(config["experiment"], overrides)
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
        int(config.get("rounds", ROUNDS)),
        advertised=config.get("advertised", ""),
        credentials=credentials,
        begun=recorder.begin,
    )
    traffic = {name: traffic_of(of.counts) for name, of in outcome.counters.items()}
    # Institutions that connect over TLS are real: their teachers are not the experiment's.
    evaluation = Evaluation(student=outcome.scores, simulated=not tls)
    recorder.finish(outcome.distilled, outcome.cards, traffic, evaluation)
    log.info("The report is %s", path / "report.html")
