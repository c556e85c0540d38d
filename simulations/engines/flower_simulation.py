"""The engine ``simulation``: run an experiment in Flower's simulation, institutions on Ray workers.

The workers are two of this machine, or those of the Ray cluster that `CLUSTER_VARIABLE` names. Each
institution dials the hub over gRPC on this machine, as it would from another one.
"""

import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from fedkd.errors import SettingsError
from fedkd.experiment import Experiment
from fedkd.loop import Progress, Watch
from fedkd.protocol import Card
from fedkd.server.run.checkpoint import Checkpoint
from fedkd.simulations.engines.environment_variables import set_environment_defaults

if TYPE_CHECKING:
    from flwr.app import Message
    from flwr.serverapp import Grid

    from fedkd.server.drivers.flower_driver import RunOutcome

WORKERS = 2
"""Ray workers, of one CPU each, whatever the number of institutions."""
OBJECT_STORE = 80 * 2**20
"""Bytes of Ray's shared memory, at least 75 MB. No more than a student passes through it."""
CLUSTER_VARIABLE = "FEDKD_RAY_ADDRESS"
"""Environment variable with the address of a running Ray cluster, host:port. Ray's own variable is
not used: it may have been set for other work."""
FLOWER_HOME_VARIABLE = "FLWR_HOME"
"""Environment variable with the folder that Flower uses in the place of ~/.flwr."""


class _InterruptedError(Exception):
    """Ctrl-C was pressed: ends the thread that runs the loop."""


def simulate(
    experiment: Experiment,
    vaults: Path,
    watch: Watch = lambda progress: None,
    checkpoint: Checkpoint | None = None,
    begun: Callable[[Sequence[Card]], None] = lambda cards: None,
) -> "RunOutcome":
    """Run an experiment in Flower's simulation. To be called from the main thread.

    Args:
        experiment: resolved.
        vaults: folder where the institutions store their teachers.
        watch: called with progress, from another thread; changes nothing.
        checkpoint: of the run; None to run without one.
        begun: called once with the cards of the institutions, before the first question.

    Raises:
        SettingsError: the experiment asks for what no institution offers, or Ray does not start.
        QuorumLost: too few institutions opened, dialled in, or answered.
        KeyboardInterrupt: Ctrl-C was pressed.
    """
    set_environment_defaults()
    from fedkd.simulations.engines.settings_check import check_settings

    check_settings(experiment)  # what is wrong would otherwise be said once Ray is ready
    worker_variables = _worker_variables()
    with _flower_home(), _environment(worker_variables):
        # Flower and Ray read their variables as they are imported.
        from flwr.app import Context
        from flwr.serverapp import ServerApp
        from flwr.simulation import run_simulation

        from fedkd.client.client_app import app as client_app
        from fedkd.server.drivers.flower_driver import distil_over_flower

        server_app = ServerApp()
        outcomes: list[RunOutcome] = []
        with _flower_errors_only(), _ray(worker_variables), _sigint_check() as check:

            def on_progress(progress: Progress) -> None:
                check()
                watch(progress)

            @server_app.main()
            def main(grid: "Grid", context: Context) -> None:
                checked = _interruptible_grid(grid, check)
                outcomes.append(
                    distil_over_flower(
                        *(checked, experiment, vaults, on_progress),
                        checkpoint=checkpoint,
                        begun=begun,
                    )
                )

            run_simulation(
                server_app,
                client_app,
                num_supernodes=len(experiment.institutions.taking_part),
                backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
            )
    return outcomes[0]


@contextmanager
def flower_runtime() -> Iterator[None]:
    """Start Ray and silence Flower's logs, for another program that uses Flower's simulation.

    Import Flower within the block only.

    Raises:
        SettingsError: Ray does not start.
    """
    worker_variables = _worker_variables()
    with _flower_home(), _environment(worker_variables):
        import flwr.simulation  # noqa: F401 - it sets the level of its log as it is imported

        with _flower_errors_only(), _ray(worker_variables):
            yield


def _worker_variables() -> dict[str, str]:
    """Environment variables of the Ray workers."""
    return {"FLWR_LOG_LEVEL": "ERROR", "OMP_NUM_THREADS": "1", "PYTHONPATH": _search_path()}


@contextmanager
def _ray(worker_variables: Mapping[str, str]) -> Iterator[None]:
    """Start Ray on this machine, or connect to the cluster that `CLUSTER_VARIABLE` names.

    Flower uses a running Ray, and would itself start one more slowly.
    """
    import ray

    try:
        if cluster := os.environ.get(CLUSTER_VARIABLE):
            # Workers of a cluster do not inherit our environment, and need our module path.
            ray.init(
                address=cluster,
                runtime_env={"env_vars": dict(worker_variables)},
                logging_level=logging.ERROR,
            )
        else:
            # "local", since a variable could otherwise lead it to a cluster elsewhere. Without a
            # runtime_env, since workers that Ray has at hand could not be used with one.
            ray.init(
                address="local",
                num_cpus=WORKERS,
                object_store_memory=OBJECT_STORE,
                include_dashboard=False,
                logging_level=logging.ERROR,
            )
    except Exception as error:  # Ray has no common error of its own
        reason = " ".join(str(error).split())
        raise SettingsError(f"Ray did not start: {reason}; try --engine local") from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _flower_errors_only() -> Iterator[None]:
    """Show only Flower's errors: we print progress ourselves, and the report has the summary."""
    flower = logging.getLogger("flwr")
    before = flower.level
    flower.setLevel(logging.ERROR)
    try:
        yield
    finally:
        flower.setLevel(before)


@contextmanager
def _sigint_check() -> Iterator[Callable[[], None]]:
    """Yield a check that raises in the calling thread once Ctrl-C was pressed.

    The simulation waits in the main thread for the loop, which runs in another: an interrupt of
    the first alone would leave the second running.
    """
    pressed = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        pressed.set()
        print("\nfedkd: stopping", file=sys.stderr)

    def check() -> None:
        if pressed.is_set():
            raise _InterruptedError

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield check
    except _InterruptedError:
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGINT, before)


def _interruptible_grid(grid: "Grid", check: Callable[[], None]) -> "Grid":
    """Have the grid call the check whenever it polls for replies: it may wait minutes."""
    look = grid.pull_messages

    def pull_messages(message_ids: Iterable[str]) -> "Iterable[Message]":
        check()
        return look(message_ids)

    grid.pull_messages = pull_messages  # type: ignore[method-assign]
    return grid


@contextmanager
def _flower_home() -> Iterator[None]:
    """Give Flower a temporary home, unless the user has named one.

    It writes an identifier of the machine there even where telemetry is off.
    """
    if os.environ.get(FLOWER_HOME_VARIABLE):
        yield
        return
    with (
        tempfile.TemporaryDirectory(prefix="fedkd-flower-", ignore_cleanup_errors=True) as folder,
        _environment({FLOWER_HOME_VARIABLE: folder}),
    ):
        yield


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables within the block; child processes that start in it inherit them."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _search_path() -> str:
    """The module search path of this process, for workers that need the same one."""
    return os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
