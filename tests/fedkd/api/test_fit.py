"""Fits: every kind of teacher, other class sets, tables, own students, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_digits
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from torch import nn

import fedkd
from fedkd.data.datasets import open_data
from fedkd.errors import DataError, SettingsError
from fedkd.evaluation import accuracy, predict_logits
from fedkd.experiment import parse_experiment
from fedkd.models import ModuleTeacher, Shape, build_network
from fedkd.procedural import build_priors
from fedkd.server.coordinator import ingredients
from tests.support.hospital_table import COLUMNS, NAMES, STAY, patients

SHAPE = (1, 8, 8)
SMALL: dict[str, Any] = {"shape": SHAPE, "budget": 128, "steps": 12, "progress": False}


def small_student(classes: int, shape: Shape) -> nn.Module:
    del shape
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, classes))


@pytest.fixture(scope="module")
def classifiers() -> dict[str, object]:
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype("float32")
    parts = {"north": slice(0, 700), "south": slice(700, 1400)}
    return {n: LogisticRegression(max_iter=300).fit(images[p], labels[p]) for n, p in parts.items()}


@pytest.fixture
def no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """No ONNX and no page, which take seconds."""
    monkeypatch.setattr(
        "fedkd.server.report.records.run_folder.export_onnx", lambda *a: {"skipped": "not here"}
    )
    monkeypatch.setattr("fedkd.server.run.run_recorder.build_report", lambda path: None)


@pytest.mark.usefixtures("no_files")
def test_a_student_learns_what_its_teachers_know(classifiers: dict[str, object]) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        result = fedkd.fit("mlp", classifiers, **{**SMALL, "budget": 2560, "steps": 300})
        assert torch.get_num_threads() == 2, "the caller's, whatever the run uses"
    finally:
        torch.set_num_threads(before)
    data = open_data("digits")
    assert accuracy(predict_logits(result.student, data.test_images), data.test_labels) > 0.85
    assert result.classes == tuple(str(digit) for digit in range(10))
    assert result.held_back["count"] > 80  # type: ignore[operator]
    assert [t["name"] for t in result.result["teachers"]] == ["north", "south"]
    assert [t["samples_asked"] for t in result.result["teachers"]] == [2560, 2560]


@pytest.mark.usefixtures("no_files")
def test_it_is_the_student_of_the_loop_itself() -> None:
    teachers = {n: build_network("mlp", 10, SHAPE, seed) for n, seed in (("a", 1), ("b", 2))}
    student = build_network("mlp", 10, SHAPE, seed=3)
    start = {n: w.clone() for n, w in student.state_dict().items()}
    result = fedkd.fit(student, teachers, seed=5, **SMALL)
    assert all(torch.equal(w, start[n]) for n, w in student.state_dict().items()), "not changed"
    at_hand = fedkd.InProcess(dict(teachers), SHAPE, 10)
    experiment = parse_experiment(
        {"name": "fit", "questions": {"budget": 128}, "student": {"steps": 12}}
    )
    parts = ingredients(experiment, at_hand.cards)
    loop = fedkd.distil(
        *(student, parts.method, at_hand.cards, parts.plan),
        build_priors(*experiment.images.priors),
        seed=5,
    )
    by_hand = fedkd.drive(loop, at_hand.answer)
    for name, weight in by_hand.student.state_dict().items():
        assert torch.equal(weight, result.student.state_dict()[name])
    assert by_hand.classes == result.classes
    assert by_hand.held_back == result.held_back


@pytest.mark.usefixtures("no_files")
def test_teachers_of_every_kind_and_of_other_classes(classifiers: dict[str, object]) -> None:
    ends_in_softmax = nn.Sequential(build_network("mlp", 2, SHAPE, 0), nn.Softmax(1))
    teachers = {
        "classifier": classifiers["north"],
        "module": build_network("mlp", 3, SHAPE, 0),
        "teacher": ModuleTeacher(build_network("mlp", 2, SHAPE, 1), 2),
        "softmax": ends_in_softmax,
    }
    result = fedkd.fit(
        small_student,
        teachers,
        classes={
            "module": ["3", "11", "owl"],
            "teacher": ["owl", "fox"],
            "softmax": ["owl", "fox"],
        },
        outputs={"softmax": "probabilities"},
        **SMALL,
    )
    assert set(result.classes) == {*map(str, range(10)), "11", "owl", "fox"}
    assert result.student(torch.zeros(1, *SHAPE)).shape == (1, len(result.classes))


@pytest.mark.usefixtures("no_files")
def test_an_own_student_is_saved_and_loaded(tmp_path: Path) -> None:
    teacher = build_network("mlp", 4, SHAPE, 0)
    names = ["ant", "bee", "cat", "dog"]
    result = fedkd.fit(small_student, [teacher], classes=names, out=tmp_path / "run", **SMALL)
    file = result.save(tmp_path / "new" / "own.safetensors")
    for path in (file, tmp_path / "run"):
        loaded = fedkd.load(path, student=small_student(4, SHAPE))
        assert (loaded.classes, loaded.shape) == (tuple(names), SHAPE)
        assert torch.equal(
            loaded.network(torch.ones(1, *SHAPE)), result.student(torch.ones(1, *SHAPE))
        )
        assert set(loaded.predict(torch.rand(5, *SHAPE))) <= set(names)
    with pytest.raises(SettingsError, match=r"give the one that was trained"):
        fedkd.load(file)
    with pytest.raises(DataError, match="weights of another network"):
        fedkd.load(file, student=build_network("mlp", 4, SHAPE, 0))
    with pytest.raises(DataError, match=r"no student of fedkd's"):
        fedkd.load(tmp_path / "run" / "events.jsonl")
    with pytest.raises(SettingsError, match="there is no ONNX file of this student: not here"):
        result.export_onnx(tmp_path / "own.onnx")
    with pytest.raises(SettingsError, match=r"expected a file that ends in \.safetensors"):
        result.save(tmp_path / "own.pt")
    with pytest.raises(SettingsError, match="is not empty"):
        fedkd.fit("mlp", [teacher], out=tmp_path / "run", **SMALL)


@pytest.mark.usefixtures("no_files")
def test_rows_of_a_table_in_their_own_units(tmp_path: Path) -> None:
    schema, frame = tmp_path / "stay.toml", patients()
    schema.write_text(COLUMNS + STAY)
    ward = make_column_transformer((OneHotEncoder(), ["ward"]), remainder="passthrough")
    fitted = make_pipeline(ward, LinearRegression()).fit(frame[list(NAMES)], frame["stay"])
    arguments = {**SMALL, "budget": 640, "steps": 200, "shape": None}
    result = fedkd.fit("table-mlp", [fitted], schema=schema, **arguments)
    assert result.classes == ("stay",)
    assert result.held_back["r2"] > 0.5  # type: ignore[operator]
    loaded, rows = fedkd.load(result.save(tmp_path / "own.safetensors")), torch.rand(4, 1, 1, 4)
    assert loaded.predicts == "numbers"
    assert torch.equal(loaded.network(rows), result.student(rows))
    assert loaded.predict_numbers(rows) == {
        "stay": pytest.approx((60 * result.student(rows)[:, 0]).tolist())
    }
    assert [column.name for column in loaded.columns] == ["age", "ward", "grade", "fever"]
    with pytest.raises(SettingsError, match="predicts numbers; call predict_numbers"):
        loaded.predict(rows)
    assert result.held_back["rmse"] == pytest.approx(60 * result.held_back["rmse_of_range"])  # type: ignore[operator]


def test_a_run_that_finds_no_more_samples_says_so_where_its_result_is_read(tmp_path: Path) -> None:
    schema = tmp_path / "one.toml"
    schema.write_text(
        '[[columns]]\nname = "age"\nlow = 0\nhigh = 255\n'
        '[predict]\nname = "outcome"\nclasses = ["well", "ill"]\n'
    )
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(1, 2))
    arguments = {**SMALL, "budget": 512, "steps": 20, "shape": None}
    fedkd.fit("table-mlp-small", [teacher], schema=schema, out=tmp_path / "run", **arguments)
    (warning,) = json.loads((tmp_path / "run" / "result.json").read_text())["warnings"]
    assert "no more is asked after 256 samples" in warning  # a byte has no more values
    assert warning in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "give either teachers"),
        ({"teachers": ["x.onnx"], "listen": "127.0.0.1:0"}, "give either teachers"),
        ({"teachers": []}, "there are no teachers"),
        ({"teachers": "x.onnx"}, "teachers is one path"),
        ({"teachers": Path("x.onnx")}, "teachers is one path"),
        ({"teachers": nn.Linear(3, 2)}, "teachers is one Linear; give a list"),
        ({"teachers": nn.Sequential(nn.Flatten(), nn.ReLU())}, "teachers is one Sequential"),
        ({"teachers": {"a": "x.onnx"}, "classes": {"b": 2}}, "classes name the teacher 'b'"),
        ({"teachers": {"a": "x.onnx"}, "outputs": {"b": "logits"}}, "there are a; correct"),
        ({"teachers": ["x.onnx"], "institutions": 2}, "leave them out, or give listen"),
        ({"teachers": ["x.onnx"], "wait": 5.0}, "leave them out, or give listen"),
        ({"listen": "127.0.0.1:0", "classes": 2}, "institutions say theirs"),
        ({"listen": "127.0.0.1:0", "shape": None, "outputs": "probabilities"}, "say theirs"),
        ({"listen": "127.0.0.1:0", "shape": None, "wait": -1.0}, "expected seconds, 0 or more"),
        ({"teachers": {"a": "x.onnx"}}, "teacher a: classes is missing"),
        ({"teachers": {"a": nn.Linear(3, 2)}}, r"teacher a cannot read images of \(1, 8, 8\)"),
        ({"teachers": {"a": nn.Identity()}}, r"answers \(1, 1, 8, 8\) to one image"),
        ({"teachers": {"a": nn.Flatten()}, "shape": None}, "teacher a: shape is missing"),
        ({"teachers": {"a": nn.Flatten()}, "student": 3}, "a student of type int"),
        ({"teachers": {"a": nn.Flatten()}, "method": "dafll"}, "dafll"),
        ({"teachers": {"a": nn.Flatten()}, "settings": {"studnet": {}}}, "studnet"),
        ({"teachers": {"a": nn.Flatten()}, "budget": 0}, "budget"),
    ],
)
def test_mistakes_are_told_before_work_is_spent(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        fedkd.fit(**{"student": "mlp", **SMALL, **arguments})


def test_what_is_no_teacher_is_refused() -> None:
    with pytest.raises(DataError, match="an object of type object is no teacher"):
        fedkd.fit("mlp", {"a": object()}, classes=2, **SMALL)
    softmax = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.Softmax(1))
    with pytest.raises(DataError, match="answers probabilities"):
        fedkd.fit("mlp", {"a": softmax}, **SMALL)


def test_arguments_count_more_than_settings() -> None:
    from fedkd.server.call_settings import Arguments, experiment_of

    given = {"seed": 3, "method": {"name": "dafl", "latent": 8}, "questions": {"budget": 10}}
    plain = experiment_of(given, Arguments(), "cnn", 2)
    assert (plain.seed, plain.questions.budget, plain.student.model) == (3, 10, "cnn")
    assert plain.method.arguments == {"latent": 8}
    named = experiment_of(given, Arguments(seed=1, budget=20, method="cudfkd"), "cnn", 2)
    assert (named.seed, named.questions.budget, named.method.arguments) == (1, 20, {})
    shipped = experiment_of("digits", Arguments(steps=7), "mlp", 4)
    assert (shipped.student.steps, shipped.questions.budget) == (7, 12_800)
    assert (shipped.institutions.count, shipped.student.model) == (4, "mlp")
    assert shipped.method.arguments == {"distillation_loss": "kl"}
    assert "latent" in given["method"], "the caller's tables stay as they are"  # type: ignore[operator]
