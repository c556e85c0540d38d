"""The paper's run in pieces: teacher and student go on where a call was cut short."""

import io
import json
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from fedkd.core.compute import CPU, Compute
from fedkd.data.datasets import open_data
from fedkd.errors import SettingsError
from fedkd.experiment.experiment import load
from fedkd.simulations.headline import cudfkd_cifar10 as headline
from fedkd.simulations.headline.cudfkd_cifar10 import EXPERIMENT, go_on, lossy
from fedkd.simulations.headline.teacher_training import Lessons, trained

SMALL = [
    'institutions.models=["cnn"]',
    "institutions.epochs=1",
    *("student.model=cnn", "student.steps=20", "student.batch=16"),
    *("questions.budget=80", "questions.batch=16", "questions.capacity=32"),
]
SOON = 100.0


def test_a_teacher_that_is_taught_in_pieces_is_the_one_that_is_taught_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, lessons = open_data("digits", None), Lessons(1, 100, 0.05)
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    whole, share = trained("cnn", data, lessons, CPU, tmp_path / "whole", 1.0)
    assert share == 1
    clock = iter(range(1000))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    calls, share = 0, 0.0
    while share < 1:
        now = float(next(clock))
        pieces, share = trained("cnn", data, lessons, CPU, tmp_path / "pieces", now + 12)
        calls += 1
    assert calls > 2
    other = pieces.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in whole.state_dict().items())


def test_a_run_that_stops_by_the_clock_comes_to_the_student_of_one_that_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("whole", "pieces"):
        headline._begin(tmp_path / name, "cifar10-cudfkd", None, "digits", SMALL)
    assert go_on(tmp_path / "whole", time.monotonic() + SOON).startswith("done")
    (tmp_path / "pieces" / "teacher.safetensors").write_bytes(
        (tmp_path / "whole" / "teacher.safetensors").read_bytes()
    )
    left, ends = {"events": 0}, list[str]()

    class Stopping(headline.Chronicle):
        def __call__(self, progress: headline.Progress) -> None:
            left["events"] -= 1
            if left["events"] < 0:
                raise headline._TimeUpError("part")
            super().__call__(progress)

    monkeypatch.setattr(headline, "Chronicle", Stopping)
    for events in (3, 25, 9, 1000):
        left["events"] = events
        ends.append(go_on(tmp_path / "pieces", time.monotonic() + SOON))
    assert [end[:4] for end in ends] == ["stud"] * 3 + ["done"]
    assert go_on(tmp_path / "pieces", 0.0).startswith("done"), "nothing is done twice"
    students = [
        (tmp_path / name / "run" / "student.safetensors").read_bytes()
        for name in ("whole", "pieces")
    ]
    assert students[0] == students[1]
    result = json.loads((tmp_path / "pieces" / "run" / "result.json").read_text())
    assert (result["engine"], result["resumed"]) == ("headline", 3)
    assert (tmp_path / "pieces" / "run" / "report.html").exists()


def test_jpeg_is_named(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    for name, kind in (("a", "JPEG"), ("b", "PNG")):
        content = io.BytesIO()
        Image.new("RGB", (32, 32)).save(content, kind)
        (tmp_path / name).mkdir()
        table = pyarrow.table({"img": [{"bytes": content.getvalue()}], "label": [0]})
        parquet.write_table(table, tmp_path / name / "train.parquet")
    assert lossy("parquet:", str(tmp_path / "a"))
    assert not lossy("parquet:", str(tmp_path / "b"))
    assert not lossy("torchvision:CIFAR10", None)
    headline._begin(tmp_path / "run", "cifar10-cudfkd", str(tmp_path / "a"), "parquet:", [])
    assert json.loads((tmp_path / "run" / EXPERIMENT).read_text())["name"].endswith("(JPEG)")


def test_one_teacher_and_a_device_that_is_there() -> None:
    with pytest.raises(SettingsError, match="one teacher"):
        headline._begin(Path("nowhere"), "cifar10-cudfkd", None, "", ["institutions.count=2"])
    with pytest.raises(SettingsError, match="not to be had here"):
        Compute.of("nonsense", "auto")
    assert Compute.of("cpu", "auto") == CPU
    assert Compute.of("cpu", "bfloat16").dtype is torch.bfloat16


def test_the_schedule_is_the_papers() -> None:
    e = load("cifar10-cudfkd")
    rounds = e.questions.budget / e.questions.batch
    assert (rounds, e.student.steps / rounds, e.student.batch) == (10_000, 10, 512)
    assert (e.institutions.models, e.student.model) == (("resnet34",), "resnet18")
