"""Names of the classes of a folder reach the result, the page and both files of the student."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedkd.client import cli as client
from fedkd.data.datasets import open_data
from fedkd.errors import DataError
from fedkd.experiment import parse_experiment
from fedkd.simulations.run import run

NAMES = ("ash", "beech", "cedar")
EXPERIMENT = {
    "name": "leaves",
    "institutions": {
        "data": "folder:leaves",
        "count": 2,
        "partition": "iid",
        "models": ["mlp"],
        "epochs": 15,
    },
    "method": {"name": "cudfkd"},
    "student": {"model": "mlp", "steps": 150},
    "questions": {"budget": 384},
}
OWNER = """\
name = "north"
[teacher]
model = "mlp"
epochs = 1
[data]
source = "folder:leaves"
[policy]
signals = ["logits"]
samples = 16
[connection]
server = "127.0.0.1:9"
insecure = true
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images, and a run on it."""
    folder = tmp_path_factory.mktemp("names")
    rng = np.random.default_rng(0)
    for split, count in (("train", 30), ("test", 12)):
        for place, name in enumerate(reversed(NAMES)):
            where = folder / "leaves" / split / name
            where.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 90, (6, 6), dtype=np.uint8)
                pixels[2 * place : 2 * place + 2] += 160
                Image.fromarray(pixels).save(where / f"{number}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run(parse_experiment(EXPERIMENT), "local", folder / "run")
    (folder / "owner.toml").write_text(OWNER)
    return folder


@pytest.fixture(autouse=True)
def there(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)


def test_a_folder_s_names_are_its_classes() -> None:
    assert open_data("folder:leaves").class_names == NAMES


def test_the_result_the_page_and_both_files_have_the_names(work: Path) -> None:
    result = json.loads((work / "run" / "result.json").read_text())
    assert tuple(result["classes"]) == NAMES
    assert set(result["student"]["recall"]) == set(NAMES)
    assert [tuple(teacher["classes"]) for teacher in result["teachers"]] == [NAMES, NAMES]
    page = (work / "run" / "report.html").read_text()
    assert all(name in page for name in NAMES)
    onnx = pytest.importorskip("onnx")
    model = onnx.load(work / "run" / "student.onnx")
    notes = json.loads({p.key: p.value for p in model.metadata_props}["fedkd"])
    assert tuple(json.loads(notes["class_names"])) == NAMES
    assert notes["shape"] == "1x6x6"


def scored(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], file: str) -> str:
    monkeypatch.setattr(sys, "argv", ["fedkd-client", "score", "owner.toml", file, "--json"])
    with pytest.raises(SystemExit) as ended:
        client.main()
    printed = capsys.readouterr()
    assert not ended.value.code, printed.err
    return printed.out


def test_both_files_have_the_same_score(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    as_torch = scored(monkeypatch, capsys, "run/student.safetensors")
    assert scored(monkeypatch, capsys, "run/student.onnx") == as_torch
    right = json.loads(as_torch)
    student = json.loads((work / "run" / "result.json").read_text())["student"]
    assert right["accuracy"] == pytest.approx(student["accuracy"])
    assert right["accuracy"] > 0.8


def test_outputs_in_another_order_are_found_by_name(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(work / "run" / "student.onnx")
    notes = json.loads(model.metadata_props[0].value)
    notes["class_names"] = json.dumps([NAMES[1], NAMES[2], NAMES[0]])
    onnx.helper.set_model_props(model, {"fedkd": json.dumps(notes)})
    onnx.save(model, work / "moved.onnx")
    straight = json.loads(scored(monkeypatch, capsys, "run/student.onnx"))
    moved = json.loads(scored(monkeypatch, capsys, "moved.onnx"))
    assert moved["accuracy"] < 0.2 < straight["accuracy"]
    del model.metadata_props[:]
    onnx.save(model, work / "plain.onnx")
    assert json.loads(scored(monkeypatch, capsys, "plain.onnx")) == straight


def test_label_sets_are_given_by_these_names(work: Path, tmp_path: Path) -> None:
    institutions = {**EXPERIMENT["institutions"], "labels": [["ash", "cedar"], ["beech", "ash"]]}
    settings = {**EXPERIMENT, "institutions": institutions, "student": {"model": "mlp", "steps": 2}}
    result = run(parse_experiment(settings), "local", tmp_path / "run")
    assert tuple(result["classes"]) == NAMES
    assert [list(teacher["classes"]) for teacher in result["teachers"]] == institutions["labels"]


def test_a_lone_onnx_says_which_file_is_missing(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx = pytest.importorskip("onnx")
    from fedkd.client.vault.teachers.formats import open_teacher
    from fedkd.client.vault.teachers.teacher_spec import TeacherSpec

    model = onnx.load(work / "run" / "student.onnx")
    onnx.save(
        model,
        tmp_path / "own.onnx",
        save_as_external_data=True,
        location="own.onnx.data",
        size_threshold=64,
    )
    spec = TeacherSpec("onnx:own.onnx", (1, 6, 6), classes=3, folder=tmp_path)
    open_teacher(spec)
    (tmp_path / "own.onnx.data").unlink()
    with pytest.raises(DataError, match=r"weights in own\.onnx\.data, which is missing; copy it"):
        open_teacher(spec)
