"""Run an experiment with ``flwr run`` in Flower's simulation, on a SuperLink of its own.

    python -m fedkd.simulations.rehearsal.flwr_run [EXPERIMENT] [--out DIR] [--seed N]
    python -m fedkd.simulations.rehearsal.flwr_run --app    prints the folder of the Flower app

The app only names entry points: code is imported from the installed fedkd. Flower's simulation
searches first in the working directory of its SuperLink, keeps a SuperLink alive that later runs
would share, and exits with status 0 when a run fails. So this program starts a SuperLink of its
own, with its own ports and home, in an empty directory, and asks it for the status of the run.
"""

import argparse
import http.client
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fedkd.errors import FedkdError, SettingsError
from fedkd.experiment import Experiment, load_experiment
from fedkd.simulations.engines.environment_variables import ENVIRONMENT_DEFAULTS
from fedkd.simulations.rehearsal.free_ports import free_ports

FLOWER_APP = Path(__file__).resolve().parents[1] / "flower-app"
"""The Flower app: names of entry points, and no code."""
COMMANDS = Path(sys.executable).parent
"""Where Flower's commands are installed."""
WORKERS = 2
"""Ray workers, of one CPU each, whatever the number of institutions."""
START_TIMEOUT = 60.0
"""Seconds that a SuperLink may take to start."""
FAILED = re.compile("^(Simulation|ServerApp) failed with exception: ")
"""Prefix that Flower adds to our error messages."""
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
"""Escape sequence of a terminal, which Flower's logs have in a file too."""
EXIT_TIMEOUT = 15.0
"""Seconds that it may take to exit."""


@dataclass(frozen=True)
class FlowerInstallation:
    """Home, working directory and ports that no other run shares."""

    home: Path
    empty: Path
    ports: tuple[int, ...]
    """Ports of the SuperLink, and of its control interface."""

    @property
    def environment(self) -> dict[str, str]:
        """Environment of all processes; OMP_NUM_THREADS may be set from outside."""
        # More threads than cores make a run several times slower.
        # The defaults override a user's values: installed dependencies would shadow ours.
        return {
            "OMP_NUM_THREADS": "1",
            **os.environ,
            **ENVIRONMENT_DEFAULTS,
            "PATH": os.pathsep.join([str(COMMANDS), os.environ.get("PATH", os.defpath)]),
            "FLWR_HOME": str(self.home),
            "RAY_ADDRESS": "local",  # another Ray of this user's refuses Flower's settings
            "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(self.ports[0]),
            "FLWR_LOCAL_CONTROL_API_PORT": str(self.ports[1]),
        }

    def command(self, *command_line: str, capture: bool = False) -> str:
        """Run ``flwr`` to its end; returns its standard output if ``capture``.

        Otherwise it is printed, without Flower's colours where nobody watches a terminal.
        """
        plain = not capture and not sys.stdout.isatty()
        with subprocess.Popen(
            [str(COMMANDS / "flwr"), *command_line],
            cwd=self.empty,
            env=self.environment,
            stdout=subprocess.PIPE if capture or plain else None,
            stderr=subprocess.STDOUT if plain else None,
            text=True,
        ) as process:
            if plain and process.stdout is not None:
                for line in process.stdout:
                    print(COLOUR.sub("", line), end="", flush=True)
            return process.communicate()[0] or ""


def run_with_flwr(experiment: Experiment, name: str, out: Path) -> str | None:
    """Run an experiment with ``flwr run``.

    Args:
        experiment: resolved, seed and number of institutions are taken from it.
        name: of the experiment for the app: an absolute path, or the name of a shipped one.
        out: folder of the run, absolute.

    Returns:
        None where the run completed, otherwise the error in one line.

    Raises:
        SettingsError: Ray or the SuperLink cannot start.
    """
    run_config = {"experiment": name, "seed": experiment.seed, "out": str(out)}
    return run_app(FLOWER_APP, experiment.institutions.count, run_config)


def run_app(app: Path, nodes: int, run_config: Mapping[str, object]) -> str | None:
    """Run a Flower app with ``flwr run`` in Flower's simulation.

    Args:
        app: its folder.
        nodes: SuperNodes that are simulated.
        run_config: overrides of what its ``pyproject.toml`` configures.

    Returns:
        None where the run completed, otherwise the error in one line.

    Raises:
        SettingsError: Ray or the SuperLink cannot start.
    """
    if " " in sys.executable:  # Ray passes it to a shell without quotes, and retries for ever
        raise SettingsError(
            f"Flower's Ray starts no worker by a path with a space in it ({sys.executable}); "
            "install fedkd elsewhere, or use `fedkd run --engine simulation`"
        )
    federation_config = {
        "num-supernodes": nodes,
        "client-resources-num-cpus": 1,
        "init-args-num-cpus": WORKERS,
    }
    with tempfile.TemporaryDirectory(prefix="fedkd-flower-") as folder:
        home, empty = Path(folder, "home"), Path(folder, "empty")
        home.mkdir()
        empty.mkdir()
        flower = FlowerInstallation(home, empty, free_ports(2))
        with _superlink(flower):
            flower.command(
                *("run", str(app), "--stream"),
                *(
                    "--federation-config",
                    assignments(federation_config),
                    "--run-config",
                    assignments(run_config),
                ),
            )
            return failure_of_run(flower.command("ls", "--format", "json", capture=True))


@contextmanager
def _superlink(flower: FlowerInstallation) -> Iterator[None]:
    """A SuperLink that runs within the block."""
    log = flower.home / "superlink.log"
    with log.open("w") as file:
        superlink = subprocess.Popen(
            [
                *(str(COMMANDS / "flower-superlink"), "--insecure", "--simulation"),
                *("--host", "127.0.0.1", "--port", str(flower.ports[0])),
                *("--control-api-address", f"127.0.0.1:{flower.ports[1]}"),
            ],
            cwd=flower.empty,
            env=flower.environment,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        try:
            _wait_until_healthy(superlink, flower.ports[0], log)
            yield
        finally:
            superlink.terminate()
            try:
                superlink.wait(EXIT_TIMEOUT)
            except subprocess.TimeoutExpired:
                superlink.kill()
                superlink.wait()


def _wait_until_healthy(superlink: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while superlink.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1.0):
                return
        except (OSError, http.client.HTTPException):
            time.sleep(0.1)
    last = (log.read_text().strip().splitlines() or ["no output"])[-1]
    raise SettingsError(f"Flower's SuperLink did not start: {last}; try `flower-superlink` by hand")


def failure_of_run(listing: str) -> str | None:
    """Error of the only run that ``flwr ls --format json`` lists; None if it completed."""
    try:
        runs = json.loads(listing)["runs"]
        status, details = runs[0]["status"], runs[0]["status-details"]
    except (ValueError, KeyError, IndexError):
        return "Flower took no run; see its messages above"
    if status == "finished:completed":
        return None
    return " ".join(FAILED.sub("", str(details)).split())


def assignments(values: Mapping[str, object]) -> str:
    """``key=value`` pairs for Flower's options, with values in TOML, as JSON's strings are."""
    return " ".join(f"{key}={json.dumps(value)}" for key, value in values.items())


def main(arguments: list[str] | None = None) -> int:
    """Entry point; the exit status: 0, or 2 and one line on standard error."""
    parser = argparse.ArgumentParser(
        prog="python -m fedkd.simulations.rehearsal.flwr_run", description=__doc__.splitlines()[0]
    )
    parser.add_argument("experiment", nargs="?", default="digits", help=".toml file, or a name")
    parser.add_argument("--app", action="store_true", help="print the folder of the Flower app")
    parser.add_argument("--out", type=Path, help="folder of the run [runs/EXPERIMENT-TIME]")
    parser.add_argument("--seed", type=int, help="overrides the seed of the file")
    options = parser.parse_args(arguments)
    if options.app:
        print(FLOWER_APP)
        return 0
    try:
        overrides = [] if options.seed is None else [f"seed={options.seed}"]
        experiment = load_experiment(options.experiment, overrides)
        out = options.out or Path("runs", f"{experiment.name}-{time.strftime('%Y%m%d-%H%M%S')}")
        path = Path(options.experiment)
        name = str(path.resolve()) if path.is_file() else options.experiment
        failure = run_with_flwr(experiment, name, out.resolve())
    except FedkdError as error:
        failure = str(error)
    if failure is not None:
        print(f"fedkd: {failure}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
