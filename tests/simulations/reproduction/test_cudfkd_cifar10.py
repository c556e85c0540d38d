"""The CIFAR-10 reproduction in several calls: teacher and student resume after an interruption."""

import io
import json
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from fedkd.core.device import CPU, Compute
from fedkd.data.datasets import open_data
from fedkd.errors import SettingsError
from fedkd.experiment import load_experiment
from fedkd.models import build_network
from fedkd.simulations.reproduction import cudfkd_cifar10 as reproduction
from fedkd.simulations.reproduction.cudfkd_cifar10 import EXPERIMENT, continue_run, is_jpeg
from fedkd.simulations.reproduction.teacher_training import TeacherSettings, train_until

SMALL = [
    'institutions.models=["cnn"]',
    "institutions.epochs=1",
    *("student.model=cnn", "student.steps=20", "student.batch=16"),
    *("questions.budget=80", "questions.batch=16", "questions.capacity=32"),
]
SOON = 100.0


def network() -> nn.Module:
    """A small teacher with the same weights at each call."""
    return build_network("cnn", 10, (1, 8, 8), 0)


def test_a_teacher_trained_in_several_calls_equals_one_trained_in_one_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, settings = open_data("digits", None), TeacherSettings(1, 100, 0.05)
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    total_steps, share = train_until(network(), data, settings, CPU, tmp_path / "whole", 1.0)
    assert share == 1
    clock = iter(range(1000))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    calls, share = 0, 0.0
    while share < 1:
        now = float(next(clock))
        pieces, share = train_until(network(), data, settings, CPU, tmp_path / "pieces", now + 12)
        calls += 1
    assert calls > 2
    other = pieces.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in total_steps.state_dict().items())


def test_the_teacher_is_trained_as_the_experiment_says(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"privacy\.epsilon: this teacher"):
        reproduction._store_experiment(
            *(tmp_path, "cifar10-cudfkd", None, "digits"),
            ["privacy.epsilon=3", "policy.class_counts=false", "policy.scores=false"],
        )
    for name, further in (("as shipped", []), ("plain", ["institutions.shift=0"])):
        out = tmp_path / name
        reproduction._store_experiment(
            out, "cifar10-cudfkd", None, "digits", [*SMALL, "student.steps=1", *further]
        )
        assert continue_run(out, time.monotonic() + SOON).startswith("done")
    one, other = (
        (tmp_path / name / "teacher.safetensors").read_bytes() for name in ("as shipped", "plain")
    )
    assert one != other


def test_a_run_in_several_calls_ends_with_the_same_student_as_one_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("whole", "pieces"):
        reproduction._store_experiment(tmp_path / name, "cifar10-cudfkd", None, "digits", SMALL)
    assert continue_run(tmp_path / "whole", time.monotonic() + SOON).startswith("done")
    (tmp_path / "pieces" / "teacher.safetensors").write_bytes(
        (tmp_path / "whole" / "teacher.safetensors").read_bytes()
    )
    left, ends = {"events": 0}, list[str]()

    class Stopping(reproduction.RunRecorder):
        def __call__(self, progress: reproduction.Progress) -> None:
            left["events"] -= 1
            if left["events"] < 0:
                raise reproduction._DeadlineError("part")
            super().__call__(progress)

    monkeypatch.setattr(reproduction, "RunRecorder", Stopping)
    for events in (3, 25, 9, 1000):
        left["events"] = events
        ends.append(continue_run(tmp_path / "pieces", time.monotonic() + SOON))
    assert [end[:4] for end in ends] == ["stud"] * 3 + ["done"]
    assert continue_run(tmp_path / "pieces", 0.0).startswith("done"), "nothing is done twice"
    students = [
        (tmp_path / name / "run" / "student.safetensors").read_bytes()
        for name in ("whole", "pieces")
    ]
    assert students[0] == students[1]
    result = json.loads((tmp_path / "pieces" / "run" / "result.json").read_text())
    assert (result["engine"], result["resumed"]) == ("headline", 3)
    assert (tmp_path / "pieces" / "run" / "report.html").exists()


def test_jpeg_data_are_named_in_the_experiment(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    for name, kind in (("a", "JPEG"), ("b", "PNG")):
        content = io.BytesIO()
        Image.new("RGB", (32, 32)).save(content, kind)
        (tmp_path / name).mkdir()
        table = pyarrow.table({"img": [{"bytes": content.getvalue()}], "label": [0]})
        parquet.write_table(table, tmp_path / name / "train.parquet")
    assert is_jpeg("parquet:", str(tmp_path / "a"))
    assert not is_jpeg("parquet:", str(tmp_path / "b"))
    assert not is_jpeg("torchvision:CIFAR10", None)
    reproduction._store_experiment(
        tmp_path / "run", "cifar10-cudfkd", str(tmp_path / "a"), "parquet:", []
    )
    assert json.loads((tmp_path / "run" / EXPERIMENT).read_text())["name"].endswith("(JPEG)")


def test_one_teacher_and_a_device_that_is_there() -> None:
    with pytest.raises(SettingsError, match="one teacher"):
        reproduction._store_experiment(
            Path("nowhere"), "cifar10-cudfkd", None, "", ["institutions.count=2"]
        )
    with pytest.raises(SettingsError, match="not to be had here"):
        Compute.of("nonsense", "auto")
    assert Compute.of("cpu", "auto") == CPU
    assert Compute.of("cpu", "bfloat16").dtype is torch.bfloat16


def test_the_schedule_is_the_papers() -> None:
    e = load_experiment("cifar10-cudfkd")
    rounds = e.questions.budget / e.questions.batch
    assert (rounds, e.student.steps / rounds, e.student.batch) == (10_000, 10, 512)
    assert (e.institutions.models, e.student.model) == (("resnet34",), "resnet18")
