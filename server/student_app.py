"""Flower ServerApp that trains a user's own student on what the ClientApps' teachers answer."""

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from torch import nn

from fedkd.server.call_settings import Arguments, Settings, experiment_of, student_factory
from fedkd.server.coordinator import StudentFactory
from fedkd.server.drivers.flower_recording import record_over_flower


def student_app(
    student: nn.Module | StudentFactory | str, *, settings: Settings = None
) -> ServerApp:
    """A ServerApp that trains a student; the ClientApps are `fedkd.flower.teacher_app`.

    The run configuration may have ``budget``, ``steps``, ``seed``, ``method``, ``rounds``,
    ``institutions`` (how many nodes are waited for), ``out``, ``address`` (of the hub),
    ``advertised`` and ``tls``. What it leaves out is as in ``settings``.

    Args:
        student: as in `fedkd.fit`; where nodes evaluate it, a function of K and (C, H, W) that the
            ClientApp has too.
        settings: all that an experiment's TOML may have: nested tables, its path, or its name.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        config = {key: str(value) for key, value in context.run_config.items() if value != ""}
        numbers = {key: int(config[key]) for key in ("seed", "budget", "steps") if key in config}
        arguments = Arguments(method=config.get("method"), **numbers)
        count = int(config["institutions"]) if "institutions" in config else None
        experiment = experiment_of(settings, arguments, student, count, config.get("address"))
        record_over_flower(grid, experiment, config, student_factory(student))

    return app
