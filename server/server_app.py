"""The coordinator's Flower ServerApp: run the experiment that the run configuration names.

The coordinator has no data; scores are those that institutions report.
"""

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedkd.experiment import load_experiment
from fedkd.server.drivers.flower_recording import record_over_flower
from fedkd.server.experiment_check import check_experiment

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the experiment that the run configuration names, and write its folder."""
    config = {key: str(value) for key, value in context.run_config.items()}
    overrides = [*config.get("set", "").split(), f"seed={config['seed']}"]
    if address := config.get("address"):
        overrides.append(f"questions.address={address}")
    experiment = load_experiment(config["experiment"], overrides)
    check_experiment(experiment)  # an error here leaves no folder
    record_over_flower(grid, experiment, config)
