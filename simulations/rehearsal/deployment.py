"""A whole federation on this machine as it would be deployed. Knows commands, nothing of a run.

    python -m fedkd.simulations.rehearsal.deployment [--experiment digits] [--institutions 3] [--without-flower]

Each institution is a process of its own (``fedkd-client serve``) with an owner's file, a share of
the data, a ledger and a certificate; all of it lies in a folder that is gone afterwards. With
Flower there are a SuperLink and authenticated SuperNodes beside them; without it the coordinator is
``fedkd-server run``, and institutions come in with join tokens. TLS everywhere, ports by the OS.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import fedkd
from fedkd.errors import FedkdError, SettingsError
from fedkd.experiment import Experiment, load_experiment
from fedkd.server.hub.certificates import make_certificates
from fedkd.simulations.engines.environment_variables import ENVIRONMENT_DEFAULTS
from fedkd.simulations.rehearsal.flower_tls import through_flower
from fedkd.simulations.rehearsal.flwr_run import COMMANDS, free_ports
from fedkd.simulations.rehearsal.process_supervisor import Processes, end_on_signals

TEACHING = 300.0
"""Seconds that an institution may take to train its teacher and open its socket."""
LIMIT = 1800.0
"""Seconds that the run itself may take."""
INSTALLED = Path(fedkd.__file__).parents[1]
"""Where this very fedkd is imported from."""
CLIENT = (sys.executable, "-m", "fedkd.client.cli")
SERVER = (sys.executable, "-m", "fedkd.server.cli")


@dataclass(frozen=True)
class Site:
    """Where a federation lives while it does."""

    folder: Path
    experiment: Experiment
    """Resolved; says how many institutions there are, and what they have."""
    named: str
    """The experiment as a command takes it: an absolute path, or a name that ships."""
    overrides: tuple[str, ...]
    hub: str
    """host:port where institutions dial in."""
    out: Path
    """Of the report, absolute."""

    @property
    def tls(self) -> Path:
        """Certificates of everybody; on real machines each has only its own."""
        return self.folder / "tls"

    @property
    def institutions(self) -> list[str]:
        """Their names."""
        return [f"institution-{index}" for index in range(self.experiment.institutions.count)]

    def owner(self, name: str) -> Path:
        """An owner's file."""
        return self.folder / name / "owner.toml"

    def socket(self, name: str) -> Path:
        """Where an institution's agent hears Flower's bell."""
        return self.folder / name / "state" / "agent.sock"


class Steps:
    """Says what is being done, and when."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def __call__(self, text: str) -> None:
        """Begin a step."""
        print(f"fedkd [{time.monotonic() - self._began:5.1f} s] {text}", flush=True)


def owner_file(site: Site, index: int) -> str:
    """What an owner writes: TOML, and JSON's values are TOML's."""
    i, policy, name = site.experiment.institutions, site.experiment.policy, site.institutions[index]
    budget = site.experiment.questions.budget
    # As the experiment divides data and limits answers; every other word is the owner's own.
    tables: dict[str, dict[str, object]] = {
        "teacher": {
            "source": "trained",
            "model": i.models[index % len(i.models)],
            "epochs": i.epochs,
            "batch": i.batch,
            "learning_rate": i.learning_rate,
        },
        "data": {
            "source": i.data,
            "root": str(Path(i.root).resolve()) if i.root else None,
            "index": index,
            "count": i.count,
            "partition": i.partition,
            "alpha": i.alpha,
            "shards": i.shards,
            "partition_file": i.partition_file,
            "partition_seed": i.partition_seed,
        },
        "policy": {
            "signals": list(policy.signals),
            "samples": policy.samples or 2 * budget,
            "largest_batch": policy.largest_batch,
            "pull_back": policy.pull_back,
            "class_counts": policy.class_counts,
            "scores": policy.scores,
            "servers": [site.hub],
        },
        "connection": {
            "server": site.hub,
            "ca": str(site.tls / "ca.pem"),
            "certificate": str(site.tls / f"{name}.pem"),
            "key": str(site.tls / f"{name}.key"),
            "token_file": str(token) if (token := site.folder / name / "token").is_file() else None,
        },
    }
    lines = [f"name = {json.dumps(name)}"]
    for table, values in tables.items():
        lines += ["", f"[{table}]"]
        lines += [f"{key} = {json.dumps(v)}" for key, v in values.items() if v is not None]
    return "\n".join([*lines, ""])


def prepare(site: Site, say: Steps, *, flower: bool) -> None:
    """Certificates, and a folder for each institution."""
    say(f"certificates of {len(site.institutions)} institutions and the coordinator")
    make_certificates(site.tls, site.institutions, flower=flower)
    for name in site.institutions:
        site.owner(name).parent.mkdir(mode=0o700)


def start_agents(site: Site, processes: Processes, say: Steps) -> None:
    """Every institution's own process, ready to answer."""
    for index, name in enumerate(site.institutions):
        site.owner(name).write_text(owner_file(site, index))
        say(f"{name}: fedkd-client serve, which trains its teacher")
        processes.start(name, *CLIENT, "serve", str(site.owner(name)))
    for name in site.institutions:
        processes.await_that(site.socket(name).is_socket, name, TEACHING)
        say(f"{name} is ready")


def without_flower(site: Site, processes: Processes, say: Steps) -> None:
    """Coordinator and institutions, mutual TLS, a join token for each."""
    prepare(site, say, flower=False)
    tokens = site.folder / "tokens"
    say("a join token for each institution")
    told = processes.run(
        "token", *SERVER, "token", *site.institutions, "--tokens", str(tokens), limit=TEACHING
    )
    for line in told.splitlines():
        name, token = line.split()
        path = site.owner(name).parent / "token"
        path.touch(mode=0o600)
        path.write_text(token)
    start_agents(site, processes, say)
    say(f"fedkd-server run at {site.hub}")
    processes.run(
        "fedkd-server",
        *(*SERVER, "run", site.named, "--address", site.hub, "--tls", str(site.tls)),
        *("--tokens", str(tokens), "--institutions", str(len(site.institutions))),
        *("--wait", "120", "--out", str(site.out), "--seed", str(site.experiment.seed)),
        *(word for override in site.overrides for word in ("--set", override)),
        limit=LIMIT,
        shown=True,
    )


def with_flower(site: Site, processes: Processes, say: Steps) -> None:
    """The same beside Flower, which finds the institutions and carries the student to them."""
    prepare(site, say, flower=True)
    start_agents(site, processes, say)
    agents = {name: site.socket(name) for name in site.institutions}
    how = {
        "experiment": site.named,
        "seed": site.experiment.seed,
        "set": " ".join(site.overrides),
        "address": site.hub,
        "tls": str(site.tls),
        "out": str(site.out),
    }
    through_flower(site.folder, site.tls, agents, how, processes, say, LIMIT)


def examine(site: Site, processes: Processes, say: Steps) -> None:
    """What an owner can do with the student: see how well it does on his private test data."""
    name, student = site.institutions[0], site.out / "student.safetensors"
    words = (*CLIENT, "score", str(site.owner(name)), str(student))
    said = processes.run("score", *words, limit=TEACHING)
    say(f"{name} examines the student on its own test data: {said.strip()}")


def deploy(
    experiment: Experiment, named: str, overrides: Sequence[str], out: Path, flower: bool
) -> None:
    """Run an experiment over a federation that is built for it and gone afterwards.

    Args:
        experiment: resolved.
        named: the experiment as a command takes it.
        overrides: that were applied to it.
        out: folder of the report, absolute.
        flower: whether Flower finds the institutions.

    Raises:
        FedkdError: whatever went wrong, in one line; nothing that was started is left.
    """
    say = Steps()
    if out.exists():
        raise SettingsError(f"{out} is there already; name another folder")
    # A Unix socket's path is short: the system's folder for temporary files is.
    with tempfile.TemporaryDirectory(prefix="fedkd-") as folder:
        hub = f"127.0.0.1:{free_ports(1)[0]}"
        site = Site(Path(folder), experiment, named, tuple(overrides), hub, out)
        with Processes(site.folder, environment(site.folder)) as processes:
            (with_flower if flower else without_flower)(site, processes, say)
            examine(site, processes, say)
            say("ending every process")
    outcome(out, say)


def environment(folder: Path) -> Mapping[str, str]:
    """Of everything that is started; OMP_NUM_THREADS may be set from outside."""
    return {
        "OMP_NUM_THREADS": "1",
        **os.environ,
        **ENVIRONMENT_DEFAULTS,
        "PATH": os.pathsep.join([str(COMMANDS), os.environ.get("PATH", os.defpath)]),
        "PYTHONPATH": os.pathsep.join([str(INSTALLED), os.environ.get("PYTHONPATH", "")]),
        "FLWR_HOME": str(folder / "flower"),
    }


def outcome(out: Path, say: Steps) -> None:
    """Say what came of it."""
    result = json.loads((out / "result.json").read_text())
    accuracy = result["student"]["accuracy"]
    told = "not known to a coordinator" if accuracy is None else f"{accuracy:.2%}"
    asked = max(teacher["samples_asked"] for teacher in result["teachers"])
    say(f"student {told}, {asked:,} samples asked of each of {len(result['teachers'])}")
    say(f"the page: {out / 'report.html'}")


def main(arguments: list[str] | None = None) -> int:
    """Entry point; the exit status: 0, or 2 and one line on standard error."""
    parser = argparse.ArgumentParser(
        "fedkd.simulations.rehearsal.deployment", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--experiment", default="digits", help=".toml file, or a name [digits]")
    parser.add_argument("--institutions", type=int, default=3, help="how many [3]")
    parser.add_argument("--without-flower", action="store_true", help="fedkd-server alone")
    parser.add_argument("--out", type=Path, help="folder of the run [runs/deployment-TIME]")
    parser.add_argument("--seed", type=int, default=0, help="of the run [0]")
    parser.add_argument("--set", action="append", default=[], help="section.key=value, repeatable")
    given = parser.parse_args(arguments)
    end_on_signals()
    try:
        overrides = [*given.set, f"institutions.count={given.institutions}"]
        experiment = load_experiment(given.experiment, [*overrides, f"seed={given.seed}"])
        path = Path(given.experiment)
        named = str(path.resolve()) if path.is_file() else given.experiment
        out = given.out or Path("runs", f"deployment-{time.strftime('%Y%m%d-%H%M%S')}")
        deploy(experiment, named, overrides, out.resolve(), not given.without_flower)
    except FedkdError as error:
        print(f"fedkd: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
