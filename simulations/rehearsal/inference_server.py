"""Rehearse an institution whose teacher is served by an inference server (MLServer).

    python -m fedkd.simulations.rehearsal.inference_server

Installs MLServer into a temporary environment with uv, has it fit and serve a teacher on the digits
of institution 0, and distils a student from that server and the other institutions of the demo.
"""

import argparse
import json
import os
import shutil
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

from fedkd.aggregation.fusion_of_cards import build_fusion
from fedkd.client.institution import (
    Institution,
    institution_name,
    simulated_assets,
    simulated_policy,
)
from fedkd.client.vault.external_vault import ExternalVault
from fedkd.client.vault.teachers.teacher_spec import TeacherSpec
from fedkd.client.vault.trained_vault import TrainedVault
from fedkd.data.datasets import open_data
from fedkd.data.partition import partition
from fedkd.errors import DataError, FedkdError
from fedkd.evaluation import accuracy, predict_logits
from fedkd.experiment import Experiment, load_experiment
from fedkd.protocol import Signal
from fedkd.server.coordinator import Coordinator, ingredients
from fedkd.simulations.engines.local import LocalInstitutions
from fedkd.simulations.rehearsal.free_ports import free_ports

PACKAGES = ("mlserver==1.7.1", "scikit-learn>=1.7")
START_TIMEOUT = 120.0
"""Seconds for the server to import, fit and listen."""
EXIT_TIMEOUT = 15.0


@dataclass
class ResourceUsage:
    """Resources that the server's process used, known when it has exited."""

    pid: int = 0
    cpu: float = 0.0
    """CPU seconds, user and system."""
    memory: float = 0.0
    """Peak resident MiB."""


def main() -> int:
    """Entry point; 0, or 2 with one line where something is missing."""
    parser = argparse.ArgumentParser(
        prog="python -m fedkd.simulations.rehearsal.inference_server",
        description=__doc__.splitlines()[0],
    )
    parser.add_argument(
        "--budget", type=int, default=12_800, help="samples asked of each institution"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the run")
    options = parser.parse_args()
    overrides = [
        f"questions.budget={options.budget}",
        f"seed={options.seed}",
        "policy.class_counts=false",
    ]
    usage = ResourceUsage()
    try:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            experiment = load_experiment("digits", overrides)
            python = _install_mlserver(folder / "environment")
            source = stack.enter_context(
                _serve(_write_server_folder(experiment, folder), python, usage)
            )
            _distil(experiment, source, folder)
    except FedkdError as error:
        print(error, file=sys.stderr)
        return 2
    print(
        f"server  pid {usage.pid} ended; {usage.cpu:.1f} s of CPU, at most {usage.memory:.0f} MiB"
    )
    return 0


def _install_mlserver(path: Path) -> Path:
    """Install MLServer into a new environment; returns its Python."""
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if uv is None:
        raise DataError("uv is not installed; install it with pip install uv")
    print(f"installing {', '.join(PACKAGES)} into an environment of their own")
    python = path / "bin" / "python"
    for command in (
        ("venv", "-q", "--python", sys.executable, str(path)),
        ("pip", "install", "-q", "--python", str(python), *PACKAGES),
    ):
        completed = subprocess.run([uv, *command], check=False)
        if completed.returncode:
            raise DataError(f"uv {' '.join(command[:2])} failed with status {completed.returncode}")
    return python


def _write_server_folder(experiment: Experiment, folder: Path) -> Path:
    """Write the server's folder: settings, code of the model, and the images of institution 0."""
    institutions, data = experiment.institutions, open_data("digits")
    parts = partition(
        data.train_labels,
        institutions.count,
        institutions.partition,
        alpha=institutions.alpha,
        seed=institutions.partition_seed,
    )
    server_folder = folder / "served"
    server_folder.mkdir(mode=0o700)
    indices = parts[0]
    np.savez(
        server_folder / "own.npz",
        images=data.train_images[indices].numpy(),
        labels=data.train_labels[indices].numpy(),
    )
    shutil.copy(Path(__file__).with_name("mlserver_teacher.py"), server_folder)
    ports = dict(zip(("http_port", "grpc_port", "metrics_port"), free_ports(3), strict=True))
    settings = {"host": "127.0.0.1", "parallel_workers": 0, "debug": False, **ports}
    (server_folder / "settings.json").write_text(json.dumps(settings))
    pixels = {"name": "images", "datatype": "FP32", "shape": [-1, *data.shape]}
    scores = {"name": "probabilities", "datatype": "FP32", "shape": [-1, data.classes]}
    model = {
        "name": "digits",
        "implementation": "mlserver_teacher.ServedTeacher",
        "inputs": [pixels],
        "outputs": [scores],
        "parameters": {"uri": str(server_folder / "own.npz")},
    }
    (server_folder / "model-settings.json").write_text(json.dumps(model))
    return server_folder


@contextmanager
def _serve(server_folder: Path, python: Path, usage: ResourceUsage) -> Iterator[str]:
    """Run the server within the block; yields the address of the model."""
    port = json.loads((server_folder / "settings.json").read_text())["http_port"]
    address = f"http://127.0.0.1:{port}/v2/models/digits"
    with (server_folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [python.with_name("mlserver"), "start", server_folder],
            cwd=server_folder,
            stdout=log,
            stderr=log,
        )
    usage.pid = process.pid
    try:
        started = time.monotonic()
        while not _is_ready(f"{address}/ready"):
            if process.poll() is not None or time.monotonic() - started > START_TIMEOUT:
                tail = (server_folder / "server.log").read_text(errors="replace")[-2000:]
                raise DataError(f"the server did not start; its log ends with: {tail}")
            time.sleep(0.2)
        print(f"server  pid {process.pid} serves after {time.monotonic() - started:.1f} s")
        yield address
    finally:
        _stop(process, usage)


def _is_ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=2.0) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _stop(process: subprocess.Popen[bytes], usage: ResourceUsage) -> None:
    """Terminate the server, and record its resource usage."""
    if process.returncode is not None:
        return
    process.terminate()
    started, killed = time.monotonic(), False
    while True:
        pid, status, rusage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        if not killed and time.monotonic() - started > EXIT_TIMEOUT:
            process.kill()
            killed = True
        time.sleep(0.05)
    process.returncode = os.waitstatus_to_exitcode(status)
    usage.cpu, usage.memory = rusage.ru_utime + rusage.ru_stime, rusage.ru_maxrss / 1024


def _distil(experiment: Experiment, address: str, folder: Path) -> None:
    """Distil with the server as institution 0; prints the accuracy of teachers and student."""
    torch.set_num_threads(experiment.student.threads)
    data, count = open_data("digits"), experiment.institutions.count
    spec = TeacherSpec(f"oip:{address}", data.shape, classes=data.classes, outputs="probabilities")
    vault_of_server = ExternalVault(spec, simulated_assets(experiment, 0))
    server = Institution(institution_name(0, count), vault_of_server, simulated_policy(experiment))
    local = LocalInstitutions(experiment, folder / "vaults", lambda _: None, {0: server})
    started = time.monotonic()
    coordinator = Coordinator(ingredients(experiment, local.cards), list(local.cards), local.answer)
    distilled = coordinator.finish()
    seconds = time.monotonic() - started
    vaults = [
        TrainedVault(simulated_assets(experiment, index), folder / "vaults" / f"{index:04d}")
        for index in range(1, count)
    ]
    outputs = {
        card.name: vault.teacher.ask(data.test_images, frozenset({Signal.LOGITS}))
        for card, vault in zip(local.cards, (vault_of_server, *vaults), strict=True)
    }
    for place, (name, answer) in enumerate(outputs.items()):
        kind = "inference server" if place == 0 else "trained network"
        teacher_accuracy = accuracy(answer[Signal.LOGITS], data.test_labels)
        print(f"teacher {name}  {teacher_accuracy:.2%}  {kind}")
    fused = build_fusion(experiment.questions.rule, local.cards, experiment.questions.prior)(
        outputs
    )[Signal.LOGITS]
    student = accuracy(predict_logits(distilled.student, data.test_images), data.test_labels)
    asked = local.traffic[institution_name(0, count)]
    print(f"ensemble  {accuracy(fused, data.test_labels):.2%}")
    print(f"student   {student:.2%}  after {distilled.student_steps} steps, {seconds:.0f} s")
    print(f"server  asked about {asked.samples_asked} images, {asked.refusals} refusals")


if __name__ == "__main__":
    raise SystemExit(main())
