"""One institution's teacher behind an inference server: ``python -m fedkd.simulations.rehearsal.inference_server``.

Installs MLServer into an environment that lasts as long as the program, has it fit and serve a
teacher on institution 0's digits, and distils a student from that server and from the other
institutions of the demo. The environment's packages come from wherever uv's settings say.
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fedkd.aggregation.fusion import fusion
from fedkd.client.institution import Institution, holding, institution_name, policy
from fedkd.client.vault.teachers.teacher_spec import TeacherSpec
from fedkd.client.vault.vault import Vault
from fedkd.data.datasets import open_data
from fedkd.data.partition import partition
from fedkd.errors import DataError, FedkdError
from fedkd.evaluation import accuracy, logits
from fedkd.experiment import Experiment, load
from fedkd.protocol import Signal
from fedkd.server.coordinator import Coordinator, ingredients
from fedkd.simulations.engines.local import LocalInstitutions

PACKAGES = ("mlserver==1.7.1", "scikit-learn>=1.7")
STARTS_WITHIN = 120.0
"""Seconds for the server to import, fit and listen."""
ENDS_WITHIN = 15.0


@dataclass
class Used:
    """What the server's process took, known when it is over."""

    pid: int = 0
    cpu: float = 0.0
    """Seconds, of user and system."""
    memory: float = 0.0
    """Most MiB resident."""


def main() -> int:
    """Run it; 0, or 2 with one line where something is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", type=int, default=12_800, help="images asked of each")
    parser.add_argument("--seed", type=int, default=0, help="of the run")
    told = parser.parse_args()
    overrides = [
        f"questions.budget={told.budget}",
        f"seed={told.seed}",
        "policy.class_counts=false",
    ]
    used = Used()
    try:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            experiment = load("digits", overrides)
            python = _environment(folder / "environment")
            source = stack.enter_context(_serving(_written(experiment, folder), python, used))
            _distil(experiment, source, folder)
    except FedkdError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"server  pid {used.pid} ended; {used.cpu:.1f} s of CPU, at most {used.memory:.0f} MiB")
    return 0


def _environment(path: Path) -> Path:
    """An environment with MLServer in it; returns its Python."""
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if uv is None:
        raise DataError("uv is not installed; install it with pip install uv")
    print(f"installing {', '.join(PACKAGES)} into an environment of their own")
    python = path / "bin" / "python"
    for words in (
        ("venv", "-q", "--python", sys.executable, str(path)),
        ("pip", "install", "-q", "--python", str(python), *PACKAGES),
    ):
        done = subprocess.run([uv, *words], check=False)
        if done.returncode:
            raise DataError(f"uv {' '.join(words[:2])} failed with status {done.returncode}")
    return python


def _written(experiment: Experiment, folder: Path) -> Path:
    """The server's folder: settings, the model's code, and institution 0's images."""
    own, data = experiment.institutions, open_data("digits")
    parts = partition(
        data.train_labels, own.count, own.partition, alpha=own.alpha, seed=own.partition_seed
    )
    served = folder / "served"
    served.mkdir(mode=0o700)
    mine = parts[0]
    np.savez(
        served / "own.npz",
        images=data.train_images[mine].numpy(),
        labels=data.train_labels[mine].numpy(),
    )
    shutil.copy(Path(__file__).with_name("served_teacher.py"), served)
    ports = dict(zip(("http_port", "grpc_port", "metrics_port"), _free_ports(3), strict=True))
    everywhere = {"host": "127.0.0.1", "parallel_workers": 0, "debug": False, **ports}
    (served / "settings.json").write_text(json.dumps(everywhere))
    pixels = {"name": "images", "datatype": "FP32", "shape": [-1, *data.shape]}
    scores = {"name": "probabilities", "datatype": "FP32", "shape": [-1, data.classes]}
    model = {
        "name": "digits",
        "implementation": "served_teacher.ServedTeacher",
        "inputs": [pixels],
        "outputs": [scores],
        "parameters": {"uri": str(served / "own.npz")},
    }
    (served / "model-settings.json").write_text(json.dumps(model))
    return served


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now; the server takes none from the operating system itself."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextmanager
def _serving(served: Path, python: Path, used: Used) -> Iterator[str]:
    """Yields the address of the model; afterwards its process is over."""
    port = json.loads((served / "settings.json").read_text())["http_port"]
    address = f"http://127.0.0.1:{port}/v2/models/digits"
    with (served / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [python.with_name("mlserver"), "start", served], cwd=served, stdout=log, stderr=log
        )
    used.pid = process.pid
    try:
        began = time.monotonic()
        while not _ready(f"{address}/ready"):
            if process.poll() is not None or time.monotonic() - began > STARTS_WITHIN:
                tail = (served / "server.log").read_text(errors="replace")[-2000:]
                raise DataError(f"the server did not start; its log ends with: {tail}")
            time.sleep(0.2)
        print(f"server  pid {process.pid} serves after {time.monotonic() - began:.1f} s")
        yield address
    finally:
        _end(process, used)


def _ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=2.0) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _end(process: subprocess.Popen[bytes], used: Used) -> None:
    """End the server by its process, and note what it took."""
    if process.returncode is not None:
        return
    process.terminate()
    began, killed = time.monotonic(), False
    while True:
        pid, status, took = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        if not killed and time.monotonic() - began > ENDS_WITHIN:
            process.kill()
            killed = True
        time.sleep(0.05)
    process.returncode = os.waitstatus_to_exitcode(status)
    used.cpu, used.memory = took.ru_utime + took.ru_stime, took.ru_maxrss / 1024


def _distil(experiment: Experiment, address: str, folder: Path) -> None:
    """One run of the loop, in which institution 0 is the server; prints how good everybody is."""
    torch.set_num_threads(experiment.student.threads)
    data, count = open_data("digits"), experiment.institutions.count
    spec = TeacherSpec(f"oip:{address}", data.shape, classes=data.classes, outputs="probabilities")
    brought = Vault.bring(spec, holding(experiment, 0))
    server = Institution(institution_name(0, count), brought, policy(experiment))
    local = LocalInstitutions(experiment, folder / "vaults", lambda _: None, {0: server})
    began = time.monotonic()
    coordinator = Coordinator(ingredients(experiment, local.cards), list(local.cards), local.answer)
    distilled = coordinator.finish()
    seconds = time.monotonic() - began
    vaults = [
        Vault.open(holding(experiment, index), folder / "vaults" / f"{index:04d}")
        for index in range(1, count)
    ]
    said = {
        card.name: vault.teacher.ask(data.test_images, frozenset({Signal.LOGITS}))
        for card, vault in zip(local.cards, (brought, *vaults), strict=True)
    }
    for place, (name, answer) in enumerate(said.items()):
        kind = "inference server" if place == 0 else "trained network"
        right = accuracy(answer[Signal.LOGITS], data.test_labels)
        print(f"teacher {name}  {right:.2%}  {kind}")
    fused = fusion(experiment.questions.rule, local.cards)(said)[Signal.LOGITS]
    student = accuracy(logits(distilled.student, data.test_images), data.test_labels)
    asked = local.traffic[institution_name(0, count)]
    print(f"ensemble  {accuracy(fused, data.test_labels):.2%}")
    print(f"student   {student:.2%}  after {distilled.student_steps} steps, {seconds:.0f} s")
    print(f"server  asked about {asked.samples_asked} images, {asked.refusals} refusals")


if __name__ == "__main__":
    raise SystemExit(main())
