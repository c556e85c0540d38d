"""The coordinator's Flower ServerApp: an experiment by name, run over whatever nodes there are.

It has no data: what it knows of accuracy is what the institutions tell it.
"""

import logging
import time
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedkd.experiment.experiment import load
from fedkd.server.hub.certificates import server_credentials
from fedkd.server.run.flower_run import ROUNDS, federate
from fedkd.server.run.recorder import Chronicle, Verdict, traffic_of

app = ServerApp()
log = logging.getLogger("flwr")


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the experiment that the run configuration names, and leave its folder."""
    config = {key: str(value) for key, value in context.run_config.items()}
    overrides = [*config.get("set", "").split(), f"seed={config['seed']}"]
    if address := config.get("address"):
        overrides.append(f"questions.address={address}")
    experiment = load(config["experiment"], overrides)
    tls = config.get("tls")
    credentials = server_credentials(Path(tls)) if tls else None
    stamp = time.strftime("%Y%m%d-%H%M%S")
    path = Path(config.get("out") or f"runs/{experiment.name}-{stamp}").resolve()
    chronicle = Chronicle(path, experiment, "flower")
    outcome = federate(
        grid,
        experiment,
        path / "institutions",
        chronicle,
        int(config.get("rounds", ROUNDS)),
        advertised=config.get("advertised", ""),
        credentials=credentials,
    )
    traffic = {name: traffic_of(of.counts) for name, of in outcome.counters.items()}
    # Whoever dials in over TLS is an owner's, and his teacher is not the experiment's.
    verdict = Verdict(student=outcome.accuracy, simulated=not tls)
    chronicle.finish(outcome.distilled, outcome.cards, traffic, verdict)
    log.info("The report is %s", path / "report.html")
