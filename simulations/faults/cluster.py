"""Processes of a test federation: start, signal, kill and restart coordinator and institutions.

Each runs a command line, forked from a server in which all modules are imported already, so that a
process that is killed at a random moment is killed at its work, and not while Python starts.
"""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from fedkd.simulations.engines.environment_variables import set_environment_defaults
from fedkd.simulations.faults.deployment_files import DeploymentFiles
from fedkd.simulations.faults.fault_kinds import FaultKind
from fedkd.simulations.faults.proxy import Proxy

FORKSERVER = multiprocessing.get_context("forkserver")
PRELOADED_MODULES = [
    *(
        "fedkd.server.cli",
        "fedkd.server.drivers.standalone_driver",
        "fedkd.server.run.run_recorder",
        "fedkd.server.hub.tls_certificates",
    ),
    *(
        "fedkd.client.cli",
        "fedkd.client.daemon",
        "fedkd.simulations.faults.intruders",
        "fedkd.simulations.faults.malicious_institution",
        "fedkd.simulations.faults.repeating_coordinator",
        "fedkd.simulations.faults.stalling_teacher",
    ),
    # Modules that torch and the report import at first use.
    *("torch._dynamo", "torch._inductor", "torch.onnx", "onnx", "onnxscript", "onnxruntime"),
    *("matplotlib.figure", "matplotlib.backends.backend_svg", "PIL.Image", "rich.progress"),
]
EXIT_TIMEOUT = 10.0
"""Seconds that a process may take to exit."""
CLAIM = 2**31 - 1
"""Training images of each class that a liar claims: as many as a card may hold."""
StrangerBehaviour = Callable[[DeploymentFiles, str, FaultKind, Connection], None]
"""What a stranger's process does, and reports."""


def prepare_forkserver() -> None:
    """Set the environment and the modules to preload; call before the first process starts."""
    set_environment_defaults()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    FORKSERVER.set_forkserver_preload(PRELOADED_MODULES)


class CoordinatorProcess:
    """``fedkd-server run`` at a fixed address, resumed whenever it is started again.

    Args:
        files: of the deployment.
        out: folder of the run.
        seed: of the run.
        checkpoint: seconds between checkpoints.
    """

    def __init__(self, files: DeploymentFiles, out: Path, seed: int, checkpoint: float) -> None:
        self.out, self.log = out, out.with_suffix(".log")
        self.starts = 0
        common = ["--address", f"127.0.0.1:{files.port}", "--tls", str(files.tls)]
        common += ["--tokens", str(files.folder / "tokens"), "--wait", "60"]
        common += ["--institutions", str(len(files.names))]
        self._start_arguments = [
            str(files.experiment),
            "--out",
            str(out),
            "--seed",
            str(seed),
            "--record",
        ]
        self._start_arguments += ["--checkpoint", str(checkpoint), *common]
        self._resume_arguments = ["--resume", str(out), *common]
        self.process: ForkServerProcess | None = None

    def start(self) -> None:
        """Start the run, or resume it."""
        started = (self.out / "experiment.json").exists()
        command_line = [
            "fedkd-server",
            "run",
            *(self._resume_arguments if started else self._start_arguments),
        ]
        self.process = FORKSERVER.Process(target=_run_command, args=(command_line, self.log))
        self.process.start()
        self.starts += 1

    @property
    def status(self) -> int | None:
        """Exit status of the process; None while it runs."""
        return None if self.process is None else self.process.exitcode

    @property
    def pid(self) -> int:
        """Process id; 0 where there is none."""
        return (self.process.pid if self.process else None) or 0

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.join(EXIT_TIMEOUT)

    def output(self) -> str:
        """Everything that it has written, since its first start."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""


class InstitutionProcess:
    """``fedkd-client serve`` of one honest institution, restarted whenever it has exited."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.starts = folder, 0
        self.process: ForkServerProcess | None = None
        self.held = False
        """Whether it is not to be restarted now."""
        self.deaths: list[str] = []
        """Its ends with a status other than 0 that were not caused by `kill`."""

    def supervise(self) -> None:
        """Start it, if it does not run."""
        if self.process is not None and self.process.exitcode is not None:
            if self.process.exitcode != 0:
                self.deaths.append(f"{self.folder.name}: status {self.process.exitcode}")
            self.process = None
        if self.process is None and not self.held:
            command_line = [
                "fedkd-client",
                "serve",
                str(self.folder / "owner.toml"),
                "--log",
                "json",
            ]
            self.process = FORKSERVER.Process(
                target=_run_command, args=(command_line, self.folder / "log")
            )
            self.process.start()
            self.starts += 1

    @property
    def runs(self) -> bool:
        """Whether its process runs."""
        return self.process is not None and self.process.exitcode is None

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        if self.process is not None and self.process.pid:
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, number)

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.join(EXIT_TIMEOUT)
            self.process = None


class MaliciousProcess:
    """A process of `fedkd.simulations.faults.malicious_institution`, and its reports."""

    def __init__(self, folder: Path, seed: int, claim: int | None = None) -> None:
        from fedkd.simulations.faults.malicious_institution import run_malicious_institution

        self.reports: list[tuple[str, str]] = []
        self._pipe, theirs = FORKSERVER.Pipe()
        self.process = FORKSERVER.Process(
            target=run_malicious_institution, args=(folder, theirs, seed, claim), daemon=True
        )
        self.process.start()
        theirs.close()

    def command(self, what: str) -> None:
        """Command a violation, a lie, or to leave, at its next query; "" cancels that."""
        self._pipe.send(str(what))

    def read_reports(self) -> None:
        """Read its reports."""
        while self._pipe.poll():
            self.reports.append(self._pipe.recv())

    def kill(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.join(EXIT_TIMEOUT)


class Cluster:
    """Processes of all institutions, until the block ends.

    Args:
        files: of the deployment, created.
        proxy: in front of the coordinator.
        seed: of random bytes that malicious institutions send.
    """

    def __init__(self, files: DeploymentFiles, proxy: Proxy, seed: int) -> None:
        self.files, self.proxy = files, proxy
        self.honest = {
            name: InstitutionProcess(files.institution_folder(name)) for name in files.honest
        }
        claims = {**dict.fromkeys(files.malicious), **dict.fromkeys(files.liars, CLAIM)}
        self.malicious = {
            name: MaliciousProcess(files.institution_folder(name), seed + n, claim)
            for n, (name, claim) in enumerate(claims.items())
        }
        self._repeaters = 0
        self.supervise()

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *_: object) -> None:
        for institution in self.honest.values():
            institution.kill()
        for malicious in self.malicious.values():
            malicious.kill()

    def supervise(self) -> None:
        """Restart exited processes and read reports."""
        for institution in self.honest.values():
            institution.supervise()
        for malicious in self.malicious.values():
            malicious.read_reports()

    @property
    def deaths(self) -> list[str]:
        """Ends of institutions that nobody has caused, since the beginning; one line for each."""
        found = [line for institution in self.honest.values() for line in institution.deaths]
        for name, malicious in self.malicious.items():
            if (status := malicious.process.exitcode) is not None:
                found.append(f"{name}: status {status}")
        return found

    def start_intruder(self, name: str, kind: FaultKind) -> tuple[ForkServerProcess, Connection]:
        """Start a process that tries to join under this name; returns it and its report pipe."""
        from fedkd.simulations.faults.intruders import try_to_join

        return self.start_stranger(name, kind, try_to_join)

    def start_stranger(
        self, name: str, kind: FaultKind, behaviour: StrangerBehaviour
    ) -> tuple[ForkServerProcess, Connection]:
        """Start a process of `intruders` under this name; returns it and its report pipe."""
        receiver, sender = FORKSERVER.Pipe(duplex=False)
        arguments = (self.files, name, kind, sender)
        process = FORKSERVER.Process(target=behaviour, args=arguments, daemon=True)
        process.start()
        return process, receiver

    def start_repeating_coordinator(self, name: str) -> tuple[ForkServerProcess, Connection]:
        """Start a second coordinator for one institution; returns it and its report pipe."""
        from fedkd.simulations.faults.repeating_coordinator import run_repeating_coordinator

        receiver, sender = FORKSERVER.Pipe(duplex=False)
        self._repeaters += 1
        arguments = (self.files, name, self._repeaters, sender)
        process = FORKSERVER.Process(target=run_repeating_coordinator, args=arguments, daemon=True)
        process.start()
        return process, receiver


def wait_until(
    condition: Callable[[], bool], seconds: float, supervise: Callable[[], None]
) -> bool:
    """Whether the condition became true within so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        supervise()
        time.sleep(0.02)
    return True


def _run_command(command_line: Sequence[str], log: Path) -> None:
    """Run a command line, in a process of its own."""
    import torch

    torch.set_num_threads(1)
    with log.open("a") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    sys.argv = list(command_line)
    if command_line[0] == "fedkd-server":
        from fedkd.server.cli import main
    else:
        from fedkd.client.cli import main
    main()
