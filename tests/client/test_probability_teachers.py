"""A teacher that ends in a softmax is refused by `card` and `serve`, with the way out."""

import os
import sys
from pathlib import Path

import pytest
from safetensors.torch import save_file
from torch import nn

from fedkd.client.cli import main
from fedkd.models import build_network

OWNER = """\
name = "north"
[teacher]
source = "factory:owners.softmax:network"
weights = "own.safetensors"
shape = [1, 8, 8]
classes = 10
[policy]
signals = ["logits"]
samples = 16
[connection]
server = "127.0.0.1:9"
insecure = true
"""


def network() -> nn.Module:
    return nn.Sequential(build_network("mlp", 10, (1, 8, 8), 0), nn.Softmax(dim=1))


@pytest.fixture
def owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(sys.modules, "owners.softmax", sys.modules[__name__])
    monkeypatch.setitem(os.environ, "GRPC_VERBOSITY", "NONE")
    save_file(network().state_dict(), tmp_path / "own.safetensors")
    file = tmp_path / "owner.toml"
    file.write_text(OWNER)
    return file


def status(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["fedkd-client", *words])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


@pytest.mark.parametrize("command", ["card", "serve"])
def test_the_command_says_what_to_write(
    owner: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert status(monkeypatch, command, str(owner)) == 2
    printed = capsys.readouterr()
    assert 'say outputs = "probabilities" under [teacher]' in printed.err
    assert printed.out == ""


def test_the_card_is_shown_once_the_file_says_so(
    owner: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    owner.write_text(OWNER.replace("classes = 10", 'classes = 10\noutputs = "probabilities"'))
    assert status(monkeypatch, "card", str(owner)) == 0
    assert "north" in capsys.readouterr().out
