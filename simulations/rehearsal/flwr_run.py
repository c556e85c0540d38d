"""Runs an experiment through Flower's own command. Knows Flower's commands, nothing of a run.

    python -m fedkd.simulations.rehearsal.flwr_run [EXPERIMENT] [--out DIR] [--seed N]
    python -m fedkd.simulations.rehearsal.flwr_run --app    where that is which Flower bundles

The bundle is a few names: code is imported from the fedkd that is installed. Flower's simulation
looks for it in the directory that its SuperLink was started in first, keeps a SuperLink alive that
later runs would share, and ends with status 0 when a run fails. So this one starts a SuperLink of
its own, on ports and in a home of its own, from an empty directory, ends it, and asks how the run
went.
"""

import argparse
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from fedkd.errors import FedkdError, SettingsError
from fedkd.experiment import Experiment, load_experiment
from fedkd.simulations.engines.environment_variables import ENVIRONMENT_DEFAULTS

FLOWER_APP = Path(__file__).resolve().parents[1] / "flower-app"
"""What Flower bundles: names of our apps, and no code."""
COMMANDS = Path(sys.executable).parent
"""Where Flower's commands are installed."""
WORKERS = 2
"""Ray workers, of one CPU each, whatever the number of institutions."""
STARTING = 60.0
"""Seconds that a SuperLink may take to start."""
FAILED = re.compile("^(Simulation|ServerApp) failed with exception: ")
"""What Flower puts before what we said ourselves."""
ENDING = 15.0
"""Seconds that it may take to end."""


@dataclass(frozen=True)
class Flower:
    """A home, an empty directory and an address that no other run shares."""

    home: Path
    empty: Path
    ports: tuple[int, ...]
    """Of the SuperLink, and of its control interface."""

    @property
    def environment(self) -> dict[str, str]:
        """Variables of everything that is started; OMP_NUM_THREADS may be set from outside."""
        # Threads that wait for one another on too few cores make a run several times as long.
        # What is quiet is set, not defaulted: installed dependencies would shadow ours.
        return {
            "OMP_NUM_THREADS": "1",
            **os.environ,
            **ENVIRONMENT_DEFAULTS,
            "PATH": os.pathsep.join([str(COMMANDS), os.environ.get("PATH", os.defpath)]),
            "FLWR_HOME": str(self.home),
            "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(self.ports[0]),
            "FLWR_LOCAL_CONTROL_API_PORT": str(self.ports[1]),
        }

    def command(self, *words: str, listen: bool = False) -> str:
        """Run ``flwr`` to its end; what it writes to standard output, if we listen."""
        ended = subprocess.run(
            [str(COMMANDS / "flwr"), *words],
            cwd=self.empty,
            env=self.environment,
            stdout=subprocess.PIPE if listen else None,
            text=True,
            check=False,
        )
        return ended.stdout or ""


def through_flower(experiment: Experiment, name: str, out: Path) -> str | None:
    """Run an experiment as ``flwr run`` does.

    Args:
        experiment: resolved, seed and number of institutions are taken from it.
        name: what the bundle finds it by: an absolute path, or a name that ships.
        out: folder of the run, absolute.

    Returns:
        None where the run completed, else why not, in one line.

    Raises:
        SettingsError: Ray or the SuperLink cannot start here.
    """
    if " " in sys.executable:  # Ray leaves it to a shell, unquoted, and tries for ever
        raise SettingsError(
            f"Flower's Ray starts no worker by a path with a space in it ({sys.executable}); "
            "install fedkd elsewhere, or use `fedkd run --engine simulation`"
        )
    how = {"experiment": name, "seed": experiment.seed, "out": str(out)}
    where = {
        "num-supernodes": experiment.institutions.count,
        "client-resources-num-cpus": 1,
        "init-args-num-cpus": WORKERS,
    }
    with tempfile.TemporaryDirectory(prefix="fedkd-flower-") as folder:
        home, empty = Path(folder, "home"), Path(folder, "empty")
        home.mkdir()
        empty.mkdir()
        flower = Flower(home, empty, free_ports(2))
        with _superlink(flower):
            flower.command(
                *("run", str(FLOWER_APP), "--stream"),
                *("--federation-config", assignments(where), "--run-config", assignments(how)),
            )
            return fault_of(flower.command("ls", "--format", "json", listen=True))


@contextmanager
def _superlink(flower: Flower) -> Iterator[None]:
    """A SuperLink that lives as long as the block."""
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
            _await_health(superlink, flower.ports[0], log)
            yield
        finally:
            superlink.terminate()
            try:
                superlink.wait(ENDING)
            except subprocess.TimeoutExpired:
                superlink.kill()
                superlink.wait()


def _await_health(superlink: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + STARTING
    while superlink.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1.0):
                return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.1)
    last = (log.read_text().strip().splitlines() or ["it said nothing"])[-1]
    raise SettingsError(f"Flower's SuperLink did not start: {last}; try `flower-superlink` by hand")


def fault_of(listing: str) -> str | None:
    """Why the only run that ``flwr ls --format json`` lists failed; None if it did not."""
    try:
        runs = json.loads(listing)["runs"]
        status, details = runs[0]["status"], runs[0]["status-details"]
    except (ValueError, KeyError, IndexError):
        return "Flower took no run; see its messages above"
    if status == "finished:completed":
        return None
    return " ".join(FAILED.sub("", str(details)).split())


def assignments(values: Mapping[str, object]) -> str:
    """``key=value`` pairs as Flower's options take them: values are TOML, as JSON's strings are."""
    return " ".join(f"{key}={json.dumps(value)}" for key, value in values.items())


def free_ports(count: int) -> tuple[int, ...]:
    """Ports of this machine that nobody has, and all different; somebody may take one later."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return tuple(each.getsockname()[1] for each in sockets)


def main(arguments: list[str] | None = None) -> int:
    """Entry point; the exit status: 0, or 2 and one line on standard error."""
    parser = argparse.ArgumentParser(
        "fedkd.simulations.rehearsal.flwr_run", description=__doc__.splitlines()[0]
    )
    parser.add_argument("experiment", nargs="?", default="digits", help=".toml file, or a name")
    parser.add_argument("--app", action="store_true", help="print the folder of the Flower app")
    parser.add_argument("--out", type=Path, help="folder of the run [runs/EXPERIMENT-TIME]")
    parser.add_argument("--seed", type=int, help="in the place of the file's")
    given = parser.parse_args(arguments)
    if given.app:
        print(FLOWER_APP)
        return 0
    try:
        overrides = [] if given.seed is None else [f"seed={given.seed}"]
        experiment = load_experiment(given.experiment, overrides)
        out = given.out or Path("runs", f"{experiment.name}-{time.strftime('%Y%m%d-%H%M%S')}")
        path = Path(given.experiment)
        name = str(path.resolve()) if path.is_file() else given.experiment
        fault = through_flower(experiment, name, out.resolve())
    except FedkdError as error:
        fault = str(error)
    if fault is not None:
        print(f"fedkd: {fault}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
