"""Rehearse a deployment on this machine: coordinator and institutions as processes, with TLS.

    python -m fedkd.simulations.rehearsal.deployment [--experiment digits] [--institutions 3]
        [--without-flower]

Each institution is a process of its own (``fedkd-client serve``) with an owner config, a part of
the data, a ledger and a certificate, in a temporary folder. With Flower there are a SuperLink and
authenticated SuperNodes beside them; without it the coordinator is ``fedkd-server run``, and
institutions join with tokens. The operating system chooses the ports.
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

from fedkd.errors import FedkdError, SettingsError
from fedkd.experiment import Experiment, load_experiment
from fedkd.server.hub.tls_certificates import make_certificates
from fedkd.simulations.engines.environment_variables import ENVIRONMENT_DEFAULTS
from fedkd.simulations.rehearsal.flower_tls import run_with_supernodes
from fedkd.simulations.rehearsal.flwr_run import COMMANDS
from fedkd.simulations.rehearsal.free_ports import free_ports
from fedkd.simulations.rehearsal.process_supervisor import ProcessSupervisor, exit_on_signals

TRAINING_TIMEOUT = 300.0
"""Seconds that an institution may take to train its teacher and open its socket."""
RUN_TIMEOUT = 1800.0
"""Seconds that the run itself may take."""
INSTALLED = Path(__file__).parents[3]
"""Where this very fedkd is imported from."""
CLIENT = (sys.executable, "-m", "fedkd.client.cli")
SERVER = (sys.executable, "-m", "fedkd.server.cli")


@dataclass(frozen=True)
class Deployment:
    """Folder, addresses and experiment of the deployment."""

    folder: Path
    experiment: Experiment
    """Resolved; defines the institutions and their data."""
    experiment_name: str
    """The experiment for the command line: an absolute path, or the name of a shipped one."""
    overrides: tuple[str, ...]
    hub: str
    """host:port of the hub."""
    out: Path
    """Folder of the run, absolute."""

    @property
    def tls(self) -> Path:
        """Folder of all certificates; on real machines each party has only its own."""
        return self.folder / "tls"

    @property
    def institutions(self) -> list[str]:
        """Names of the institutions."""
        return [f"institution-{index}" for index in range(self.experiment.institutions.count)]

    def owner_path(self, name: str) -> Path:
        """Path of an owner config."""
        return self.folder / name / "owner.toml"

    def socket(self, name: str) -> Path:
        """Control socket of an institution's agent."""
        return self.folder / name / "state" / "agent.sock"


class StepLog:
    """Prints the steps with their times."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def __call__(self, text: str) -> None:
        """Print a step."""
        print(f"fedkd [{time.monotonic() - self._began:5.1f} s] {text}", flush=True)


def owner_config(deployment: Deployment, index: int) -> str:
    """The owner config of an institution: TOML, whose values are written as JSON."""
    i, policy, name = (
        deployment.experiment.institutions,
        deployment.experiment.policy,
        deployment.institutions[index],
    )
    budget = deployment.experiment.questions.budget
    # Data and policy as in the experiment; all other settings are an owner's.
    tables: dict[str, dict[str, object]] = {
        "teacher": {
            "source": "trained",
            "model": i.models[index % len(i.models)],
            "epochs": i.epochs,
            "batch": i.batch,
            "learning_rate": i.learning_rate,
            "embedding": i.embedding,
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
            "tasks": list(i.tasks[index % len(i.tasks)]) if i.tasks else None,
        },
        "policy": {
            "signals": list(policy.signals),
            "samples": policy.samples or 2 * budget,
            "largest_batch": policy.largest_batch,
            "pull_back": policy.pull_back,
            "class_counts": policy.class_counts,
            "scores": policy.scores,
            "servers": [deployment.hub],
        },
        "connection": {
            "server": deployment.hub,
            "ca": str(deployment.tls / "ca.pem"),
            "certificate": str(deployment.tls / f"{name}.pem"),
            "key": str(deployment.tls / f"{name}.key"),
            "token_file": str(token)
            if (token := deployment.folder / name / "token").is_file()
            else None,
        },
    }
    lines = [f"name = {json.dumps(name)}"]
    for table, values in tables.items():
        lines += ["", f"[{table}]"]
        lines += [f"{key} = {json.dumps(v)}" for key, v in values.items() if v is not None]
    return "\n".join([*lines, ""])


def create_files(deployment: Deployment, report: StepLog, *, flower: bool) -> None:
    """Create certificates, and a folder for each institution."""
    report(f"certificates of {len(deployment.institutions)} institutions and the coordinator")
    make_certificates(deployment.tls, deployment.institutions, flower=flower)
    for name in deployment.institutions:
        deployment.owner_path(name).parent.mkdir(mode=0o700)


def start_agents(deployment: Deployment, processes: ProcessSupervisor, report: StepLog) -> None:
    """Start the process of every institution, and wait until it is ready."""
    for index, name in enumerate(deployment.institutions):
        deployment.owner_path(name).write_text(owner_config(deployment, index))
        report(f"{name}: fedkd-client serve, which trains its teacher")
        processes.start(name, *CLIENT, "serve", str(deployment.owner_path(name)))
    for name in deployment.institutions:
        processes.wait_for(deployment.socket(name).is_socket, name, TRAINING_TIMEOUT)
        report(f"{name} is ready")


def without_flower(deployment: Deployment, processes: ProcessSupervisor, report: StepLog) -> None:
    """Run without Flower: mutual TLS, and a join token for each institution."""
    create_files(deployment, report, flower=False)
    tokens = deployment.folder / "tokens"
    report("a join token for each institution")
    output = processes.run(
        "token",
        *SERVER,
        "token",
        *deployment.institutions,
        "--tokens",
        str(tokens),
        limit=TRAINING_TIMEOUT,
    )
    for line in output.splitlines():
        name, token = line.split()
        path = deployment.owner_path(name).parent / "token"
        path.touch(mode=0o600)
        path.write_text(token)
    start_agents(deployment, processes, report)
    report(f"fedkd-server run at {deployment.hub}")
    processes.run(
        "fedkd-server",
        *(
            *SERVER,
            "run",
            deployment.experiment_name,
            "--address",
            deployment.hub,
            "--tls",
            str(deployment.tls),
        ),
        *("--tokens", str(tokens), "--institutions", str(len(deployment.institutions))),
        *("--wait", "120", "--out", str(deployment.out), "--seed", str(deployment.experiment.seed)),
        *(word for override in deployment.overrides for word in ("--set", override)),
        limit=RUN_TIMEOUT,
        inherit_output=True,
    )


def with_flower(deployment: Deployment, processes: ProcessSupervisor, report: StepLog) -> None:
    """Run with Flower, which finds the institutions and sends them the student."""
    create_files(deployment, report, flower=True)
    start_agents(deployment, processes, report)
    agents = {name: deployment.socket(name) for name in deployment.institutions}
    run_config = {
        "experiment": deployment.experiment_name,
        "seed": deployment.experiment.seed,
        "set": " ".join(deployment.overrides),
        "address": deployment.hub,
        "tls": str(deployment.tls),
        "out": str(deployment.out),
    }
    run_with_supernodes(
        deployment.folder, deployment.tls, agents, run_config, processes, report, RUN_TIMEOUT
    )


def score_student(deployment: Deployment, processes: ProcessSupervisor, report: StepLog) -> None:
    """Score the student on the private test data of the first institution, as an owner can."""
    name, student = deployment.institutions[0], deployment.out / "student.safetensors"
    command = (*CLIENT, "score", str(deployment.owner_path(name)), str(student))
    output = processes.run("score", *command, limit=TRAINING_TIMEOUT)
    report(f"{name} scores the student on its own test data: {output.strip()}")


def deploy(
    experiment: Experiment, experiment_name: str, overrides: Sequence[str], out: Path, flower: bool
) -> None:
    """Run an experiment in a temporary deployment.

    Args:
        experiment: resolved.
        experiment_name: the experiment for the command line.
        overrides: already applied to it.
        out: folder of the run, absolute.
        flower: whether to use Flower.

    Raises:
        FedkdError: whatever went wrong, in one line; no process is left.
    """
    report = StepLog()
    if out.exists():
        raise SettingsError(f"{out} is there already; name another folder")
    # The path of a Unix socket must be short, as that of the system's temporary folder is.
    with tempfile.TemporaryDirectory(prefix="fedkd-") as folder:
        hub = f"127.0.0.1:{free_ports(1)[0]}"
        deployment = Deployment(
            Path(folder), experiment, experiment_name, tuple(overrides), hub, out
        )
        with ProcessSupervisor(deployment.folder, environment(deployment.folder)) as processes:
            (with_flower if flower else without_flower)(deployment, processes, report)
            score_student(deployment, processes, report)
            report("ending all processes")
    report_outcome(out, report)


def environment(folder: Path) -> Mapping[str, str]:
    """Environment of all processes; OMP_NUM_THREADS may be set from outside."""
    return {
        "OMP_NUM_THREADS": "1",
        **os.environ,
        **ENVIRONMENT_DEFAULTS,
        "PATH": os.pathsep.join([str(COMMANDS), os.environ.get("PATH", os.defpath)]),
        "PYTHONPATH": os.pathsep.join([str(INSTALLED), os.environ.get("PYTHONPATH", "")]),
        "FLWR_HOME": str(folder / "flower"),
    }


def report_outcome(out: Path, report: StepLog) -> None:
    """Print the result."""
    result = json.loads((out / "result.json").read_text())
    accuracy = result["student"]["accuracy"]
    output = "not known to a coordinator" if accuracy is None else f"{accuracy:.2%}"
    asked = max(teacher["samples_asked"] for teacher in result["teachers"])
    report(f"student {output}, {asked:,} samples asked of each of {len(result['teachers'])}")
    report(f"report: {out / 'report.html'}")


def main(arguments: list[str] | None = None) -> int:
    """Entry point; the exit status: 0, or 2 and one line on standard error."""
    parser = argparse.ArgumentParser(
        prog="python -m fedkd.simulations.rehearsal.deployment", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--experiment", default="digits", help=".toml file, or a name [digits]")
    parser.add_argument("--institutions", type=int, default=3, help="how many [3]")
    parser.add_argument("--without-flower", action="store_true", help="fedkd-server alone")
    parser.add_argument("--out", type=Path, help="folder of the run [runs/deployment-TIME]")
    parser.add_argument("--seed", type=int, default=0, help="of the run [0]")
    parser.add_argument("--set", action="append", default=[], help="section.key=value, repeatable")
    options = parser.parse_args(arguments)
    exit_on_signals()
    try:
        overrides = [*options.set, f"institutions.count={options.institutions}"]
        experiment = load_experiment(options.experiment, [*overrides, f"seed={options.seed}"])
        path = Path(options.experiment)
        experiment_name = str(path.resolve()) if path.is_file() else options.experiment
        out = options.out or Path("runs", f"deployment-{time.strftime('%Y%m%d-%H%M%S')}")
        deploy(experiment, experiment_name, overrides, out.resolve(), not options.without_flower)
    except FedkdError as error:
        print(f"fedkd: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
