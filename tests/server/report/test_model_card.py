"""The model card of a student: its front matter, its words, and its code, which is run."""

import ast
import contextlib
import io
import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from fedkd.models import build_network, build_table_network
from fedkd.protocol import Column, Number
from fedkd.protocol.tables import encode_rows
from fedkd.server.report.model_card import markdown_text
from fedkd.server.report.page import build_report
from fedkd.server.report.records.run_folder import RunFolder

COLUMNS = (Column("age", 20.0, 80.0, whole=True), Column("ward", 0.0, 1.0, levels=("a", "b")))
COST = Number("cost", "EUR", 100.0, 500.0)


def teacher(**changes: Any) -> dict[str, Any]:
    counted = {"samples_pulled_back": 0, "bytes_received": 0, "bytes_sent": 0, "refusals": 0}
    promise = {"epsilon": 3.0, "delta": 1e-5, "mechanism": "DP-SGD, one training image"}
    return {"name": "North", "model": "cnn", "samples_asked": 1200, **counted, **promise, **changes}


def finished(
    path: Path, network: nn.Module, notes: Mapping[str, str], **changes: Any
) -> tuple[dict[str, Any], str]:
    """Front matter and Markdown of the card of a made-up run."""
    folder = RunFolder.create(path)
    shape = changes.pop("shape")
    onnx = folder.write_student(network, shape, torch.Generator().manual_seed(0), notes)
    folder.write_result(
        {
            "student": {"accuracy": 0.8125, "parameters": 1234},
            "ensemble": {"accuracy": 0.9},
            "teachers": [teacher()],
            "method": "cudfkd",
            "engine": "local",
            "seed": 3,
            "student_steps": 500,
            "generator_steps": 0,
            "seconds": 2.0,
            "config": {"institutions": {"data": "digits"}},
            "versions": {"fedkd": "0.2.0"},
            "onnx": onnx,
            **changes,
        }
    )
    build_report(path)
    _, front, text = (path / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(front), text


def printed(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What each block of the card's Python prints, run where the student lies."""
    monkeypatch.chdir(folder)
    shown = []
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile(block, "README.md", "exec"), {})
        shown.append(out.getvalue())
    return shown


def test_the_code_of_a_card_loads_a_student_of_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = build_network("mlp", 3, (1, 8, 8), seed=5)
    names = ["cat", "do`g", "x\n<b>"]
    notes = {"student": "mlp", "classes": "3", "class_names": json.dumps(names)}
    front, text = finished(tmp_path / "run", student, notes, shape=(1, 8, 8), classes=names)
    torch.manual_seed(0)
    images = torch.rand(4, 1, 8, 8)
    monkeypatch.setattr(torch, "rand", lambda *shape: images.reshape(shape))
    loaded, by_onnx = printed(text, tmp_path / "run", monkeypatch)
    expected = [names[k] for k in student.eval()(images).argmax(1).tolist()]
    assert [name for name, _ in eval(loaded)] == expected
    assert by_onnx == "(4, 3)\n"
    assert front["library_name"] == "fedkd"
    assert front["pipeline_tag"] == "image-classification"
    (scored,) = front["model-index"][0]["results"]
    assert scored["metrics"][0] == {
        "type": "accuracy",
        "value": 0.8125,
        "name": "accuracy on test data",
    }
    assert scored["dataset"]["name"] == "digits"
    assert "**No institution's data.**" in text
    assert "| North | 1,200 | ε = 3, δ = 1e-5 by DP-SGD, one training image |" in text
    assert "1,234 parameters" in text


def test_the_code_of_a_card_loads_a_student_of_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = build_table_network("table-mlp-small", 1, COLUMNS, seed=5)
    domain = {"kind": "table", "columns": [asdict(column) for column in COLUMNS]}
    task = {"kind": "numbers", "numbers": [asdict(COST)]}
    front, text = finished(
        tmp_path / "run",
        student,
        {
            "student": "table-mlp-small",
            "classes": "1",
            "domain": json.dumps(domain),
            "task": json.dumps(task),
        },
        shape=(1, 1, 2),
        classes=["cost"],
        domain=domain,
        task=task,
        student={"held_back": {"count": 50, "r2": 0.75}},
        ensemble={},
    )
    ((name, (value,)),) = ast.literal_eval(printed(text, tmp_path / "run", monkeypatch)[0]).items()
    row = encode_rows(torch.tensor([[20.0, 0.0]], dtype=torch.float64), COLUMNS)
    expected = COST.low + (COST.high - COST.low) * float(student.eval()(row).detach())
    assert (name, value) == ("cost", pytest.approx(expected))
    assert front["pipeline_tag"] == "tabular-regression"
    assert "model-index" not in front, "nobody has test data"
    assert "R² to the ensemble is **0.750**" in text
    assert "the true R² is not known" in text


def test_the_code_of_a_card_prints_classes_of_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["\U0001f600 \\`` ```", "\u202ed\u00e9\u2028\n\x1b[2J'\""]
    domain = {"kind": "table", "columns": [asdict(column) for column in COLUMNS]}
    notes = {
        **{"student": "table-mlp-small", "classes": "2", "domain": json.dumps(domain)},
        "class_names": json.dumps(names),
    }
    _, text = finished(
        tmp_path / "run",
        build_table_network("table-mlp-small", 2, COLUMNS, seed=5),
        {**notes, "task": json.dumps({"kind": "classes"})},
        shape=(1, 1, 2),
        classes=names,
        domain=domain,
    )
    (shown,) = printed(text, tmp_path / "run", monkeypatch)[:1]
    assert ast.literal_eval(shown)[0] in names


def test_names_are_no_markdown_and_a_card_of_ones_own_is_left_alone(tmp_path: Path) -> None:
    assert markdown_text("a|b\n# <script> `x` [y](z)") == (r"a\|b \# \<script\> \`x\` \[y\](z)")
    student = build_network("mlp", 2, (1, 8, 8), seed=5)
    hostile = teacher(name="| <script>\n---\n# x", mechanism=None, epsilon=None)
    _, text = finished(
        tmp_path / "run",
        student,
        {"student": "mlp", "classes": "2"},
        shape=(1, 8, 8),
        teachers=[hostile],
    )
    assert r"| \| \<script\> --- \# x | 1,200 | none guaranteed |" in text
    (tmp_path / "run" / "README.md").write_text("mine")
    build_report(tmp_path / "run")
    assert (tmp_path / "run" / "README.md").read_text() == "mine"
