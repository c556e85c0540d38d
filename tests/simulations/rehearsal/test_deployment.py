"""Parts of the deployment rehearsal: processes that end, owner configs that can be loaded."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from fedkd.client.config.owner_config import load_owner_config
from fedkd.client.institution.from_config import owner_assets
from fedkd.client.institution.from_experiment import simulated_assets
from fedkd.errors import SettingsError
from fedkd.experiment import load_experiment
from fedkd.server.hub.tls_certificates import make_certificates
from fedkd.simulations.rehearsal.deployment import Deployment, environment, owner_config
from fedkd.simulations.rehearsal.process_supervisor import ProcessSupervisor

ROOT = Path(__file__).parents[3]
SOON = 60.0
SHELL = ("/bin/sh", "-c")


def until(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + SOON
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def lives(pid: int) -> bool:
    """Whether it runs: what has ended and was not waited for does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def test_a_process_ends_with_its_children(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    with ProcessSupervisor(tmp_path, os.environ) as processes:
        processes.start("sleeper", *SHELL, f"trap '' TERM; sleep 300 & echo $! > {note}; exec true")
        until(lambda: note.exists() and note.read_text().strip())
        child = int(note.read_text())
        assert lives(child)
    until(lambda: not lives(child))


def test_a_process_that_does_not_get_ready_is_named_with_its_last_line(tmp_path: Path) -> None:
    with ProcessSupervisor(tmp_path, os.environ) as processes:
        processes.start("north", *SHELL, "echo hello; echo no data >&2; exit 3")
        with pytest.raises(SettingsError, match="north ended with status 3: no data"):
            processes.wait_for(lambda: False, "north", SOON)
        processes.start("south", *SHELL, "sleep 300")
        with pytest.raises(SettingsError, match=r"south was not ready within 0\.1 s: no output"):
            processes.wait_for(lambda: False, "south", 0.1)
        processes.wait_for(lambda: True, "south", SOON)


def test_a_command_is_run_to_its_end_within_its_time(tmp_path: Path) -> None:
    with ProcessSupervisor(tmp_path, os.environ) as processes:
        assert processes.run("echo", *SHELL, "echo told", limit=SOON) == "told\n"
        with pytest.raises(SettingsError, match="false ended with status 7: wrong"):
            processes.run("false", *SHELL, "echo wrong >&2; exit 7", limit=SOON)
        with pytest.raises(SettingsError, match=r"sleep took more than 0\.1 s"):
            processes.run("sleep", *SHELL, "sleep 300", limit=0.1)


@pytest.mark.parametrize(
    "name", ["digits", "digits-pullback", "digits-mixed", "digits-tasks", "digits-embed"]
)
def test_owner_configs_can_be_loaded(name: str, tmp_path: Path) -> None:
    experiment = load_experiment(name, ["institutions.count=3"])
    deployment = Deployment(tmp_path, experiment, name, (), "127.0.0.1:9092", tmp_path / "out")
    make_certificates(deployment.tls, deployment.institutions)
    for index, institution in enumerate(deployment.institutions):
        path = deployment.owner_path(institution)
        path.parent.mkdir()
        (path.parent / "token").touch(mode=0o600)
        path.write_text(owner_config(deployment, index))
        owner = load_owner_config(path)
        assert owner.name == institution
        assert owner.data is not None
        assert (owner.data.index, owner.data.count) == (index, 3)
        assert owner.policy.samples >= experiment.questions.budget
        assert owner.policy.pull_back == experiment.policy.pull_back
        assert owner.servers == {"127.0.0.1:9092"}
        told = owner_assets(owner.data, owner.teacher)
        wanted = simulated_assets(experiment, index)
        assert (told.embedding, told.data) == (wanted.embedding, wanted.data)
        assert told.tasks == wanted.tasks[index : index + 1]
        assert owner.state.control_socket == deployment.socket(institution)
        assert owner.connection is not None
        assert owner.connection.credentials() is not None


def test_an_interrupted_deployment_leaves_nothing_behind(tmp_path: Path) -> None:
    words = ["--without-flower", "--institutions", "2", "--out", str(tmp_path / "run")]
    process = subprocess.Popen(
        [sys.executable, "-m", "fedkd.simulations.rehearsal.deployment", *words],
        cwd=ROOT,
        env={**environment(tmp_path), "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if "institution-1: fedkd-client serve" in line:
                break
        until(lambda: len(started_in(tmp_path)) == 2)
        started = started_in(tmp_path)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=SOON)
    finally:
        if process.poll() is None:
            process.terminate()  # not kill: it has to end what it started
            process.wait(SOON)
    assert process.returncode == 2
    assert errors == "fedkd: interrupted; everything that was started has ended\n"
    until(lambda: not any(lives(pid) for pid in started))  # children of theirs a moment later
    assert list(tmp_path.iterdir()) == []


def started_in(folder: Path) -> list[int]:
    """Processes whose commands name a deployment of this folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if str(folder / "fedkd-") in path.read_text(errors="replace"):
                found.append(int(path.parent.name))
    return found
