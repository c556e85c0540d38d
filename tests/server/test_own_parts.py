"""Parts of a user's own, named as module:factory, in one process and in a deployment."""

import json
import re
import sys
import threading
from pathlib import Path

import pytest

from fedkd.client.institution import simulated_institution
from fedkd.client.sessions.agent import Agent, ReconnectPolicy
from fedkd.experiment import load_experiment
from fedkd.simulations.cli import main
from tests.support.forked_cli import run_forked
from tests.support.server_process import SOON, running_server

QUICK = ReconnectPolicy(initial_pause=0.05, max_pause=0.2, give_up_after=SOON)
MODULE = """
from dataclasses import dataclass

import torch
from torch import nn

from fedkd.data.dataset import Dataset
from fedkd.losses import kl_divergence
from fedkd.methods import Method


def method(*, temperature=2.0):
    return Method("own", "nobody's", loss=kl_divergence(temperature))


@dataclass(frozen=True)
class Squares:
    def draw(self, count, shape, rng):
        halves = torch.rand(count, 1, 2, 1, generator=rng).repeat_interleave(2, 2)
        return (halves * 255).to(torch.uint8).expand(count, *shape).contiguous()


def network(classes, shape):
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes))


def softmaxed(classes, shape):
    return nn.Sequential(network(classes, shape), nn.Softmax(1))


def halves(root):
    def split(count, seed):
        rng = torch.Generator().manual_seed(seed)
        labels = torch.arange(count) % 2
        images = torch.randint(0, 100, (count, 1, 4, 4), generator=rng)
        images[labels == 0, :, :2] += 150
        images[labels == 1, :, 2:] += 150
        return images.to(torch.uint8), labels
    return Dataset("halves", 2, *split(80, 0), *split(40, 1))


def broken(root):
    return 1 // 0


number = 3
"""
EXPERIMENT = """
[institutions]
data = "own_parts:halves"
count = 2
partition = "iid"
models = ["own_parts:network"]
epochs = 20
[method]
name = "own_parts:method"
temperature = 3.0
[images]
priors = ["own_parts:Squares"]
[student]
model = "own_parts:network"
steps = 200
learning_rate = 0.01
[questions]
budget = 128
"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a module of somebody's own and an experiment that names it."""
    (tmp_path / "own_parts.py").write_text(MODULE)
    (tmp_path / "own.toml").write_text(EXPERIMENT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "own_parts", raising=False)
    return tmp_path


def typed(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["fedkd", *words])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_all_parts_from_a_file_and_the_student_leaves_as_onnx(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert typed(monkeypatch, "run", "own.toml", "--out", "run") == 0
    result = json.loads((work / "run" / "result.json").read_text())
    assert result["method"] == "own_parts:method"
    assert result["student"]["accuracy"] > 0.9
    if "skipped" not in result["onnx"]:
        assert result["onnx"]["argmax_agreement"] == 1.0
        assert (work / "run" / "student.onnx").exists()


def test_all_parts_in_a_deployment_with_the_same_file(work: Path) -> None:
    words = ["run", "own.toml", "--insecure", "--out", "run"]
    with running_server(work, *words, "--set", "method.temperature=4.0") as command:
        token = command.wait_for_line(r"the token of this run is (\S+)")
        address = command.wait_for_line(r"2 institutions may dial (\S+)")
        for index in range(2):
            institution = simulated_institution(load_experiment("own.toml"), index, None)
            agent = Agent(address, token, institution.card, institution.answer, None, QUICK)
            threading.Thread(target=agent.serve, daemon=True).start()
        assert command.end() == 0, command.errors
    result = json.loads((work / "run" / "result.json").read_text())
    assert (result["engine"], result["method"]) == ("hub", "own_parts:method")
    pixels = 128 * 16
    assert all(t["bytes_sent"] > pixels for t in result["teachers"]), "a prior from outside"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("method={name='own_parts:nothing'}", "has no attribute 'nothing'"),
        ("method={name='own_parts:network'}", "cannot be made of {}: "),
        ("method.heat=4", "own_parts:method takes no argument heat"),
        ("method={name='own_parts:number'}", "is a int; expected a function"),
        ('images.priors=["own_parts:halves"]', "prior 'own_parts:halves' raised TypeError"),
        ("student.model=nowhere:net", "No module named 'nowhere'"),
        ("student.model=own_parts:Squares", "model 'own_parts:Squares' raised TypeError"),
        ("student.model=own_parts:softmaxed", "student.model 'own_parts:softmaxed' ends in a soft"),
        ('institutions.models=["own_parts:softmaxed"]', "model 'own_parts:softmaxed' ends in a"),
        ("institutions.data=own_parts:broken", r"raised ZeroDivisionError.*own_parts\.py:\d+"),
        ("institutions.data=own_parts:method", "raised TypeError"),
    ],
)
def test_a_part_that_cannot_be_used_is_named_before_anything_is_trained(
    work: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    setting: str,
    message: str,
) -> None:
    assert typed(monkeypatch, "run", "own.toml", "--set", setting, "--out", "run") == 2
    printed = capsys.readouterr().err
    assert len(printed.splitlines()) == 2, "loading, and the mistake"
    assert re.search(message, printed), printed
    assert not (work / "run").exists()
    assert not (work / ".institutions").exists()


def test_a_module_that_fails_as_it_is_imported_is_named_with_its_line(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (work / "failing_parts.py").write_text("x = 1\nraise RuntimeError('no licence')\n")
    words = ["--set", "student.model=failing_parts:net", "--out", "run"]
    assert typed(monkeypatch, "run", "own.toml", *words) == 2
    assert "raised RuntimeError: no licence (failing_parts.py:2)" in capsys.readouterr().err


def test_an_own_teacher_and_own_data_in_an_owner_s_file(work: Path) -> None:
    (work / "owner.toml").write_text(
        'name = "north"\n[teacher]\nmodel = "own_parts:network"\nepochs = 5\n'
        '[data]\nsource = "own_parts:halves"\n[policy]\nsignals = ["logits"]\nsamples = 9\n'
        '[connection]\nserver = "127.0.0.1:9"\ninsecure = true\n'
    )
    done = run_forked(["fedkd-client", "teach", "owner.toml"], work)
    assert done.returncode == 0, done.stderr
    assert "a teacher of 2 classes for images of 1x4x4" in done.stdout
