"""The processes of a federation: started, struck down, started again. Knows no reason for either.

Each runs a command as it is typed, forked from a server in which everything is imported: a moment
of a process is one of its work, and not of Python's start.
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
from fedkd.simulations.faults.deployment_files import Site
from fedkd.simulations.faults.fault_kinds import Kind
from fedkd.simulations.faults.proxy import Proxy

FORKS = multiprocessing.get_context("forkserver")
PRELOADED = [
    *(
        "fedkd.server.cli",
        "fedkd.server.run.standalone",
        "fedkd.server.run.recorder",
        "fedkd.server.hub.certificates",
    ),
    *(
        "fedkd.client.cli",
        "fedkd.client.daemon",
        "fedkd.simulations.faults.malicious_institution",
        "fedkd.simulations.faults.stalling_teacher",
    ),
    # What torch and the report load at their first use.
    *("torch._dynamo", "torch._inductor", "torch.onnx", "onnx", "onnxscript", "onnxruntime"),
    *("matplotlib.figure", "matplotlib.backends.backend_svg", "PIL.Image", "rich.progress"),
]
ENDING = 10.0
"""Seconds that a process may take to end."""


def ready() -> None:
    """To be called before the first process is started."""
    set_environment_defaults()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    FORKS.set_forkserver_preload(PRELOADED)


class Coordinator:
    """``fedkd-server run``, again and again, at one address.

    Args:
        site: where everything lies.
        out: folder of the run.
        seed: of the run.
        checkpoint: seconds between states.
    """

    def __init__(self, site: Site, out: Path, seed: int, checkpoint: float) -> None:
        self.out, self.log = out, out.with_suffix(".log")
        self.lives = 0
        common = ["--address", f"127.0.0.1:{site.port}", "--tls", str(site.tls)]
        common += ["--tokens", str(site.folder / "tokens"), "--wait", "60"]
        common += ["--institutions", str(len(site.names))]
        self._begin = [str(site.experiment), "--out", str(out), "--seed", str(seed), "--record"]
        self._begin += ["--checkpoint", str(checkpoint), *common]
        self._again = ["--resume", str(out), *common]
        self.process: ForkServerProcess | None = None

    def start(self) -> None:
        """Begin the run, or go on with it."""
        begun = (self.out / "experiment.json").exists()
        words = ["fedkd-server", "run", *(self._again if begun else self._begin)]
        self.process = FORKS.Process(target=_type, args=(words, self.log))
        self.process.start()
        self.lives += 1

    @property
    def status(self) -> int | None:
        """Of the process that ended; None while it runs."""
        return None if self.process is None else self.process.exitcode

    @property
    def pid(self) -> int:
        """Of the process."""
        return (self.process.pid if self.process else None) or 0

    def kill(self) -> None:
        """End it without a word."""
        if self.process is not None:
            self.process.kill()
            self.process.join(ENDING)

    def said(self) -> str:
        """Everything that it wrote, in all its lives."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""


class Agent:
    """``fedkd-client serve`` of one institution, which is started again whenever it ended."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.starts = folder, 0
        self.process: ForkServerProcess | None = None

    def tend(self) -> None:
        """Start it, if it does not run."""
        if self.process is None or self.process.exitcode is not None:
            words = ["fedkd-client", "serve", str(self.folder / "owner.toml"), "--log", "json"]
            self.process = FORKS.Process(target=_type, args=(words, self.folder / "log"))
            self.process.start()
            self.starts += 1

    def send(self, number: signal.Signals) -> None:
        """A signal."""
        if self.process is not None and self.process.pid:
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, number)

    def kill(self) -> None:
        """End it without a word."""
        if self.process is not None:
            self.process.kill()
            self.process.join(ENDING)


class Saboteur:
    """A process of `fedkd.simulations.faults.malicious_institution`, and what it has reported."""

    def __init__(self, folder: Path, seed: int) -> None:
        from fedkd.simulations.faults.malicious_institution import live

        self.heard: list[tuple[str, str]] = []
        self._told, theirs = FORKS.Pipe()
        self.process = FORKS.Process(target=live, args=(folder, theirs, seed), daemon=True)
        self.process.start()
        theirs.close()

    def order(self, what: str) -> None:
        """Have it sin, or leave, at its next question; "" takes that back."""
        self._told.send(str(what))

    def listen(self) -> None:
        """Take in its reports."""
        while self._told.poll():
            self.heard.append(self._told.recv())

    def kill(self) -> None:
        """End it."""
        self.process.kill()
        self.process.join(ENDING)


class Cast:
    """Everybody but the coordinator, until the block ends.

    Args:
        site: prepared.
        proxy: in front of the coordinator.
        seed: of the saboteurs' rubbish.
    """

    def __init__(self, site: Site, proxy: Proxy, seed: int) -> None:
        self.site, self.proxy = site, proxy
        self.agents = {name: Agent(site.of(name)) for name in site.honest}
        self.saboteurs = {
            name: Saboteur(site.of(name), seed + n) for n, name in enumerate(site.saboteurs)
        }
        self.tend()

    def __enter__(self) -> "Cast":
        return self

    def __exit__(self, *_: object) -> None:
        for agent in self.agents.values():
            agent.kill()
        for saboteur in self.saboteurs.values():
            saboteur.kill()

    def tend(self) -> None:
        """Start whoever ended, hear whoever reports."""
        for agent in self.agents.values():
            agent.tend()
        for saboteur in self.saboteurs.values():
            saboteur.listen()

    def intruder(self, name: str, kind: Kind) -> tuple[ForkServerProcess, Connection]:
        """Somebody who tries to come in under a saboteur's name, and where he reports."""
        from fedkd.simulations.faults.malicious_institution import intrude

        hears, told = FORKS.Pipe(duplex=False)
        arguments = (self.site.of(name), self.site.tls, kind, told)
        process = FORKS.Process(target=intrude, args=arguments, daemon=True)
        process.start()
        return process, hears


def until(happened: Callable[[], bool], seconds: float, tend: Callable[[], None]) -> bool:
    """Whether it happened within so long."""
    deadline = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > deadline:
            return False
        tend()
        time.sleep(0.02)
    return True


def _type(words: Sequence[str], log: Path) -> None:
    """A command, as it is typed. In a process of its own."""
    import torch

    torch.set_num_threads(1)
    with log.open("a") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    sys.argv = list(words)
    if words[0] == "fedkd-server":
        from fedkd.server.cli import main
    else:
        from fedkd.client.cli import main
    main()
