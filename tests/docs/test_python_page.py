"""The code on docs/python.md, run as its reader would."""

import re
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from fedkd.models import build_network
from fedkd.server.report.records.student_export import export_onnx
from fedkd.simulations.rehearsal.free_ports import free_ports

PAGE = Path(__file__).parents[2] / "docs" / "python.md"
CODE = dict(re.findall(r"<!-- test: (\w+) -->\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL))


@pytest.fixture
def digits() -> tuple[Any, Any]:
    images, labels = load_digits(return_X_y=True)
    return (images / 16).astype("float32"), labels


def test_a_fit_in_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits: tuple[Any, Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    images, labels = digits
    south = build_network("mlp", 10, (1, 8, 8), seed=0).eval()
    export_onnx(south, Path("south.onnx"), (1, 8, 8), torch.Generator())
    forest = RandomForestClassifier(30, random_state=0).fit(images[:600], labels[:600])
    names: dict[str, Any] = {
        "forest": forest,
        "images": torch.from_numpy(images[600:604]).view(-1, 1, 8, 8),
    }
    exec(compile(CODE["fit"], str(PAGE), "exec"), names)
    assert names["result"].classes == tuple("0123456789")
    assert 0 < names["result"].held_back["agreement"] <= 1
    assert len(names["student"].predict(names["images"])) == 4
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {"south.onnx", "student.safetensors", "student.onnx", "report.html"}


def test_a_fit_over_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits: tuple[Any, Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    images, labels = digits
    port = str(free_ports(1)[0])
    token = "between us"

    def institution(name: str, part: slice) -> None:
        fitted = LogisticRegression(max_iter=300).fit(images[part], labels[part])
        code = CODE["institution"].replace("8930", port).replace('"north"', f'"{name}"')
        exec(compile(code, str(PAGE), "exec"), {"classifier": fitted, "token": token})

    parts = {"north": slice(0, 600), "south": slice(600, 1200)}
    threads = [threading.Thread(target=institution, args=each) for each in parts.items()]
    for thread in threads:
        thread.start()
    names: dict[str, Any] = {"token": token}
    exec(compile(CODE["coordinator"].replace("8930", port), str(PAGE), "exec"), names)
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive(), "the run is over, and so is serve"
    result = names["result"].result
    assert [teacher["name"] for teacher in result["teachers"]] == ["north", "south"]
    assert [teacher["samples_asked"] for teacher in result["teachers"]] == [640, 640]
    ledgers = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("ledger.sqlite"))
    assert ledgers == ["state/north/ledger.sqlite", "state/south/ledger.sqlite"]
