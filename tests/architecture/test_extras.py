"""What each side needs is in its own extra: both run where nothing else can be imported."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import skops.io
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from fedkd.simulations.rehearsal.free_ports import free_ports
from tests.support.only_extras import closure

ROOT = Path(__file__).parents[2]
ONLY = (sys.executable, str(ROOT / "tests" / "support" / "only_extras.py"))
OWNER = """
name = "north"
[teacher]
source = "skops:model.skops"
shape = [1, 8, 8]
classes = 10
[policy]
signals = ["logits"]
samples = 2000
servers = ["{server}"]
[connection]
server = "{server}"
insecure = true
token_file = "token"
[state]
folder = "state"
"""


@pytest.mark.parametrize(
    ("extras", "without"),
    [
        ([], {"flwr", "scikit-learn", "matplotlib", "opacus", "torchvision", "ray"}),
        (["client"], {"flwr", "matplotlib", "opacus", "torchvision", "ray"}),
        (["server"], {"flwr", "scikit-learn", "opacus", "torchvision", "ray"}),
        (["flower"], {"ray", "scikit-learn", "matplotlib", "opacus"}),
    ],
)
def test_an_extra_brings_nothing_of_the_others(extras: list[str], without: set[str]) -> None:
    found = closure(extras)
    assert not found & without
    assert {"torch", "grpcio"} <= found


def test_client_and_server_run_with_their_own_extra_alone(tmp_path: Path) -> None:
    x, y = load_digits(return_X_y=True)
    skops.io.dump(LogisticRegression(max_iter=200).fit(x / 16, y), tmp_path / "model.skops")
    server = f"127.0.0.1:{free_ports(1)[0]}"
    (tmp_path / "owner.toml").write_text(OWNER.format(server=server))
    small = ("questions.budget=256", "student.steps=10")
    command = (*ONLY, "server", "fedkd.server.cli", "run", "digits", "--insecure")
    settings = [part for each in small for part in ("--set", each)]
    options = ("--address", server, "--institutions", "1", "--out", "run", "--wait", "60")
    log = tmp_path / "log"
    with log.open("wb") as out:
        coordinator = subprocess.Popen(
            [*command, *options, *settings], cwd=tmp_path, stdout=out, stderr=out
        )
    try:
        (tmp_path / "token").touch(mode=0o600)
        (tmp_path / "token").write_text(printed_token(log))
        client = (*ONLY, "client", "fedkd.client.cli", "serve", "owner.toml")
        done = subprocess.run(
            client, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert coordinator.wait(60) == 0, log.read_text()
    finally:
        coordinator.kill()
        coordinator.wait()
    assert (tmp_path / "run" / "report.html").is_file()


def printed_token(log: Path) -> str:
    """The token that the coordinator prints as it starts."""
    for _ in range(600):
        for line in log.read_text().splitlines():
            if "the token of this run is " in line:
                return line.rpartition(" ")[2]
        time.sleep(0.1)
    raise AssertionError(log.read_text())


def test_what_is_missing_is_named_with_its_extra(tmp_path: Path) -> None:
    command = (*ONLY, "client", "fedkd.simulations.cli", "run", "digits", "--engine", "simulation")
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("is not installed; pip install 'fedkd[flower]'")
