"""The engine ``simulation``: institutions are Flower nodes, hosted by two Ray workers.

Or by those of a Ray cluster that is there already, where `CLUSTER` names it. Each of them dials the
hub over gRPC on this machine, as it would from another. It knows how such a world
is set up, and nothing of what goes on in it.
"""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from fedkd.errors import SettingsError
from fedkd.experiment.experiment import Experiment
from fedkd.loop import Progress, Watch
from fedkd.server.run.checkpoint import Checkpoint
from fedkd.simulations.engines.environment import quiet

if TYPE_CHECKING:
    from flwr.app import Message
    from flwr.serverapp import Grid

    from fedkd.server.run.flower_run import Outcome

WORKERS = 2
"""Ray workers, of one CPU each, whatever the number of institutions."""
OBJECT_STORE = 80 * 2**20
"""Bytes of Ray's shared memory, whose least is 75 MB. A student at most passes through it."""
CLUSTER = "FEDKD_RAY_ADDRESS"
"""Variable that names a running Ray cluster, host:port; one of Ray's own would be set for other
work, and lead institutions to machines that were not meant."""


class _InterruptedError(Exception):
    """The user pressed Ctrl-C. Carries that out of the thread that the loop runs in."""


def simulate(
    experiment: Experiment,
    vaults: Path,
    watch: Watch = lambda progress: None,
    checkpoint: Checkpoint | None = None,
) -> "Outcome":
    """Run an experiment in Flower's simulation. To be called from the main thread.

    Args:
        experiment: resolved.
        vaults: folder where the institutions keep their teachers, to be found there afterwards.
        watch: is told of progress, from another thread; changes nothing.
        checkpoint: the way back of the run, where it is to have one.

    Raises:
        SettingsError: the experiment asks for what is not there, or Ray does not start.
        QuorumLost: too few institutions opened, dialled in, or answered.
        KeyboardInterrupt: Ctrl-C was pressed.
    """
    quiet()
    _foresee(experiment)
    inherited = _inherited()
    with _variables(inherited):
        # Flower and Ray read their variables as they are imported.
        from flwr.app import Context
        from flwr.serverapp import ServerApp
        from flwr.simulation import run_simulation

        from fedkd.client.app import app as client_app
        from fedkd.server.run.flower_run import federate

        server_app = ServerApp()
        outcomes: list[Outcome] = []
        with _silent_flower(), _ray(inherited), _interruptible() as check:

            def watched(progress: Progress) -> None:
                check()
                watch(progress)

            @server_app.main()
            def main(grid: "Grid", context: Context) -> None:
                checked = _checked(grid, check)
                outcomes.append(
                    federate(checked, experiment, vaults, watched, checkpoint=checkpoint)
                )

            run_simulation(
                server_app,
                client_app,
                num_supernodes=experiment.institutions.count,
                backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
            )
    return outcomes[0]


@contextmanager
def world() -> Iterator[None]:
    """Flower's simulation at hand, with Ray and in silence, for whatever else is to be run in it.

    Flower is to be imported within.

    Raises:
        SettingsError: Ray does not start.
    """
    inherited = _inherited()
    with _variables(inherited), _silent_flower(), _ray(inherited):
        yield


def _inherited() -> dict[str, str]:
    """Variables of the workers."""
    return {"FLWR_LOG_LEVEL": "ERROR", "OMP_NUM_THREADS": "1", "PYTHONPATH": _search_path()}


def _foresee(experiment: Experiment) -> None:
    """Raise at once what would else be raised when Ray and all teachers have been waited for."""
    from fedkd.client.institution import holding, policy
    from fedkd.client.vault.vault import Vault
    from fedkd.protocol.signals import Card
    from fedkd.server.coordinator import ingredients

    vault, word = Vault.open(holding(experiment, 0)), policy(experiment)
    cards = [Card("the institution", vault.classes, vault.shape, word.signals, word.pull_back)]
    ingredients(experiment, cards).method.check(cards)


@contextmanager
def _ray(inherited: Mapping[str, str]) -> Iterator[None]:
    """Ray, on this machine alone, or the cluster that `CLUSTER` names.

    Flower uses what is there, and would start it more slowly.
    """
    import ray

    try:
        if cluster := os.environ.get(CLUSTER):
            # Its workers have not inherited our variables, and find our modules where we do.
            ray.init(
                address=cluster,
                runtime_env={"env_vars": dict(inherited)},
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
def _silent_flower() -> Iterator[None]:
    """Only Flower's errors are shown: progress is our own, and the summary is on the page."""
    flower = logging.getLogger("flwr")
    before = flower.level
    flower.setLevel(logging.ERROR)
    try:
        yield
    finally:
        flower.setLevel(before)


@contextmanager
def _interruptible() -> Iterator[Callable[[], None]]:
    """A check that ends the thread that calls it once Ctrl-C was pressed.

    The simulation waits in the main thread for the loop, which runs in another: an interrupt of
    the first alone would leave the second running.
    """
    pressed = threading.Event()

    def press(number: int, frame: FrameType | None) -> None:
        pressed.set()
        print("\nfedkd: stopping", file=sys.stderr)

    def check() -> None:
        if pressed.is_set():
            raise _InterruptedError

    before = signal.signal(signal.SIGINT, press)
    try:
        yield check
    except _InterruptedError:
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGINT, before)


def _checked(grid: "Grid", check: Callable[[], None]) -> "Grid":
    """The same grid, which checks whenever it looks for replies: it may wait minutes for them."""
    look = grid.pull_messages

    def pull_messages(message_ids: Iterable[str]) -> "Iterable[Message]":
        check()
        return look(message_ids)

    grid.pull_messages = pull_messages  # type: ignore[method-assign]
    return grid


@contextmanager
def _variables(values: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for the time of the block; children that start in it inherit them."""
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
    """Where this process finds its modules, for workers that must find the same."""
    return os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
