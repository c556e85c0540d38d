# ruff: noqa: E402
"""A table of numbers from end to end: interrupted and resumed, and in both engines, bit for bit."""

import json
from pathlib import Path

from fedkd.simulations.engines.environment_variables import set_environment_defaults

set_environment_defaults()  # before Flower, Ray and gRPC are imported

import pytest
import torch

from fedkd.errors import SettingsError
from fedkd.experiment import Experiment, load_experiment
from fedkd.protocol import Answers, Refusal, Request
from fedkd.server.report.records.loop_events import loop_events
from fedkd.simulations import run as runs
from fedkd.simulations.engines.local import LocalInstitutions


def small() -> Experiment:
    return load_experiment(
        "diabetes",
        ["questions.budget=400", "student.steps=120", 'institutions.models=["sklearn:Ridge"]'],
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the local engine without a stop."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    runs.run(small(), "local", out)
    return out


def test_a_student_learns_numbers_and_its_scores_are_written(whole: Path) -> None:
    result = json.loads((whole / "result.json").read_text())
    assert result["task"]["kind"] == "numbers"
    assert result["task"]["numbers"][0]["name"] == "progression"
    assert [column["name"] for column in result["domain"]["columns"]][:2] == ["age", "sex"]
    assert result["student"]["r2_to_ensemble"] > 0.5
    assert 0 < result["student"]["mae"] < result["student"]["rmse"]
    assert [teacher["samples_asked"] for teacher in result["teachers"]] == [400] * 3


def same(run: Path, other: Path) -> None:
    assert loop_events(run) == loop_events(other) != []
    students = [(path / "student.safetensors").read_bytes() for path in (run, other)]
    assert students[0] == students[1]


class StopError(Exception):
    """The process ends here."""


def test_a_run_that_was_interrupted_ends_with_the_same_student(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, questions = LocalInstitutions.answer, 0

    def answer(
        self: LocalInstitutions, request: Request
    ) -> tuple[Answers, dict[str, Refusal | str]]:
        nonlocal questions
        questions += 1
        if questions == 5:
            raise StopError
        return plain(self, request)

    out = tmp_path / "interrupted"
    with monkeypatch.context() as patched:
        patched.setattr(LocalInstitutions, "answer", answer)
        with pytest.raises(StopError):
            runs.run(small(), "local", out, checkpoint=0.001)
    assert not (out / "result.json").exists()
    result = runs.resume(out)
    assert result["resumed"] == 1
    same(out, whole)


def test_engines_make_the_same_student(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedkd.simulations.engines.flower_simulation.WORKERS", 1)
    torch.manual_seed(1)  # which must not matter
    out = tmp_path / "simulation"
    runs.run(small(), "simulation", out)
    student = "student.safetensors"
    assert (out / student).read_bytes() == (whole / student).read_bytes()
    local, simulated = (json.loads((p / "result.json").read_text()) for p in (whole, out))
    for name in ("task", "domain", "ensemble"):
        assert simulated[name] == local[name]
    assert simulated["student"]["r2_to_ensemble"] == local["student"]["r2_to_ensemble"]


@pytest.mark.parametrize(
    ("name", "kind", "score"),
    [("diabetes", "linear", "r2"), ("breast-cancer", "boosted_trees", "accuracy")],
)
def test_an_estimator_is_trained_beside_the_network_scored_and_written(
    name: str, kind: str, score: str, tmp_path: Path
) -> None:
    settings = ["questions.budget=400", "student.steps=60", f"student.estimator={kind}"]
    result = runs.run(load_experiment(name, settings), "local", tmp_path / "run")
    found = json.loads((tmp_path / "run" / "result.json").read_text())["estimator"]
    assert found == result["estimator"]
    assert found["kind"] == kind
    assert found[score] > 0.3
    assert found[score] > result["student"][score] - 0.3
    for parity in (found["skops"], found["onnx"]):
        assert not parity["failed"]
        assert parity["max_difference"] < 1e-5
    page = (tmp_path / "run" / "report.html").read_text()
    assert kind.replace("_", " ") in page


def test_an_estimator_of_images_is_refused_before_a_teacher_is_trained(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="reads rows of a table"):
        runs.run(load_experiment("digits", ["student.estimator=linear"]), "local", tmp_path / "run")
    assert not (tmp_path / "run").exists()
