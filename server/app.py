"""The coordinator's Flower ServerApp: an experiment by name, run over whatever nodes there are.

It has no data: what it knows of accuracy is what the institutions tell it.
"""

import logging
import time
from dataclasses import asdict
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedkd.experiment import load
from server.chronicle import Chronicle, Traffic, Verdict
from server.federation import ROUNDS, federate
from server.seat import Counters

app = ServerApp()
log = logging.getLogger("flwr")


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the experiment that the run configuration names, and leave its folder."""
    config = context.run_config
    overrides = [*str(config.get("set", "")).split(), f"seed={config['seed']}"]
    experiment = load(str(config["experiment"]), overrides)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    path = Path(str(config.get("out") or f"runs/{experiment.name}-{stamp}")).resolve()
    chronicle = Chronicle(path, experiment, "flower")
    rounds = int(config.get("rounds", ROUNDS))
    outcome = federate(grid, experiment, path / "institutions", chronicle, rounds)
    traffic = {name: traffic_of(counters) for name, counters in outcome.counters.items()}
    verdict = Verdict(student=outcome.accuracy)
    chronicle.finish(outcome.distilled, outcome.cards, traffic, verdict)
    log.info("The report is %s", path / "report.html")


def traffic_of(counters: Counters) -> Traffic:
    """What a hub counted, as the record has it."""
    told = asdict(counters)
    return Traffic(**{name: told[name] for name in Traffic.__dataclass_fields__})
