"""The tutorials, run as their readers would: files, commands and Python in the order of a page."""

import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from fedkd.experiment import load_experiment
from fedkd.simulations.rehearsal.flwr_run import run_app
from fedkd.simulations.rehearsal.free_ports import free_ports
from tests.support.forked_shell import run_in_shell

ROOT = Path(__file__).parents[2]
TUTORIALS = ROOT / "docs" / "tutorials"
START = ROOT / "docs" / "start"
FILE = re.compile(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", re.DOTALL)
COMMANDS = re.compile(r"^```sh\n(.*?)^```", re.DOTALL | re.MULTILINE)
PYTHON = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
ADDRESS = "127.0.0.1:9092"


def text_of(name: str) -> str:
    return (TUTORIALS / f"{name}.md").read_text()


def printed_by_commands(name: str, folder: Path) -> str:
    """What the commands of a page print in a folder with its files, but for a free port."""
    text = text_of(name)
    address = f"127.0.0.1:{free_ports(1)[0]}"
    for path, content in FILE.findall(text):
        (folder / path).write_text(content.replace(ADDRESS, address))
    commands = "".join(COMMANDS.findall(text))
    assert ADDRESS in text
    return run_in_shell(commands.replace(ADDRESS, address), folder)


def test_a_command_that_fails_is_noticed(tmp_path: Path) -> None:
    assert run_in_shell("fedkd report no || echo status $?", tmp_path).endswith("status 2\n")
    with pytest.raises(AssertionError, match="no is not a folder"):
        run_in_shell("fedkd report no; echo further", tmp_path)


def test_own_models_in_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for block in PYTHON.findall(text_of("own-models")):
            exec(compile(block, "own-models.md", "exec"), names)
    assert names["result"].classes == tuple("0123456789")
    assert names["accuracy"] > 0.72, "no teacher knows more than seven of ten classes"
    assert len(names["again"].predict(names["test"])) == 597
    assert 'outputs = "probabilities"' in printed.getvalue()
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {"student.safetensors", "student.onnx", "report.html"}


def test_own_teachers_over_tls(tmp_path: Path) -> None:
    printed = printed_by_commands("own-teachers-tls", tmp_path)
    found = re.search(r"the student names (\d+) of 397 images rightly", printed)
    assert found is not None, printed
    assert int(found[1]) > 220
    assert "3,200 of 3,200 samples are spent, 0 queries were refused" in printed
    assert "rows are verified" in printed
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert {teacher["name"] for teacher in result["teachers"]} == {"north", "south"}


def test_a_flower_app(tmp_path: Path) -> None:
    app, out = tmp_path / "app", tmp_path / "out"
    for name, text in FILE.findall(text_of("flower-app")):
        (app / name).parent.mkdir(parents=True, exist_ok=True)
        (app / name).write_text(text)
    assert len((app / "digits_app" / "client_app.py").read_text().splitlines()) <= 5
    run_config = {"budget": 640, "steps": 150, "rounds": 1, "out": str(out)}
    assert run_app(app, 2, run_config) is None
    result = json.loads((out / "result.json").read_text())
    assert [teacher["name"] for teacher in result["teachers"]] == ["institution-0", "institution-1"]
    assert [teacher["samples_asked"] for teacher in result["teachers"]] == [640, 640]
    assert result["student"]["accuracy"] > 0.3, "both nodes evaluated a student of no known name"
    assert result["student"]["held_back"]["count"] > 3
    assert result["classes"] == [str(digit) for digit in range(10)]


def test_an_audit_before_signing(tmp_path: Path) -> None:
    printed = printed_by_commands("audit-before-signing", tmp_path)
    assert re.search(r"guarantee of differential privacy +none", printed)
    assert "640 of 640 samples are spent, 0 queries were refused" in printed
    assert "rows are verified" in printed
    teacher, student = re.findall(r"^logits +threshold +(\S+) ", printed, re.MULTILINE)
    controls = re.findall(r"^samples alone +control +(\S+) ", printed, re.MULTILINE)
    assert all(0.4 < float(auc) < 0.6 for auc in controls), "a digit alone tells nothing"
    assert 0.6 > float(teacher) > float(student), "little is found, and less by the student"


def test_a_coordinators_first_experiment_is_one(tmp_path: Path) -> None:
    page = (START / "coordinator.md").read_text()
    (text,) = re.findall(r"^```toml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    (tmp_path / "experiment.toml").write_text(text)
    experiment = load_experiment(str(tmp_path / "experiment.toml"))
    assert experiment.questions.budget == 20_000
    assert experiment.expect.classes == ("cat", "dog")
