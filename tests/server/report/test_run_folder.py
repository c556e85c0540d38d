"""A run folder and all that lies in it is its owner's alone, whatever the umask."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from fedkd.core.checkpoint_state import State
from fedkd.experiment import parse_experiment
from fedkd.protocol import Ask, Card, Reply, Signal
from fedkd.server.hub.bans import BanReason
from fedkd.server.run.checkpoint import Checkpoint

NORTH = Card("north", 3, (1, 2, 2), frozenset({Signal.LOGITS}))


@pytest.fixture(params=[0o000, 0o022])
def open_umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("open_umask")
@pytest.mark.parametrize("there", [False, True], ids=["new", "there"])
def test_nobody_else_reads_a_run(tmp_path: Path, there: bool) -> None:
    """`replies.bin`, with every answer, was 666 under umask 0."""
    path = tmp_path / "run"
    if there:
        path.mkdir()
    checkpoint = Checkpoint.begin(path, parse_experiment({"name": "small"}), "hub", 1e-9)
    checkpoint.record_participants([NORTH])
    ask = Ask(torch.zeros(1, 1, 2, 2, dtype=torch.uint8))
    checkpoint.append(ask, {"north": Reply({Signal.LOGITS: torch.zeros(1, 3).half()})}, {})
    checkpoint._save(State({"x": torch.zeros(1)}, {}), {"asking": True})
    checkpoint.bans.add("rude", BanReason("noise"))
    folder = checkpoint.folder
    folder.append_event({"kind": "warned", "text": "x"})
    student = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    folder.write_student(student, (1, 2, 2), torch.Generator())
    checkpoint.close()
    modes = {
        str(file.relative_to(tmp_path)): file.stat().st_mode & 0o777
        for file in sorted(tmp_path.rglob("*"))
    }
    assert {"run/checkpoint/replies.bin", "run/events.jsonl", "run/student.safetensors"} <= {*modes}
    folders = ("run", "run/checkpoint")
    assert all(modes[name] == 0o700 for name in folders), modes
    assert {n: oct(m) for n, m in modes.items() if n not in folders and m != 0o600} == {}
