"""``fedkd audit membership RUN``: what a finished simulation left is attacked as it is."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from fedkd.errors import FedkdError, SettingsError
from fedkd.experiment import load_experiment
from fedkd.simulations.audit.finished_run import audit_finished_run
from fedkd.simulations.cli import app
from fedkd.simulations.run import run

SMALL = ["student.steps=30", "questions.budget=100", "questions.batch=50"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "wine"
    run(load_experiment("wine", SMALL), "local", folder, checkpoint=60)
    return folder


def test_student_and_every_teacher_of_a_run_are_attacked(finished: Path, tmp_path: Path) -> None:
    scores, figures = tmp_path / "scores.csv", tmp_path / "figures.json"
    words = ["audit", "membership", str(finished), "--scores", str(scores), "--json", str(figures)]
    assert CliRunner().invoke(app, words).exit_code == 0
    models = json.loads(figures.read_text())["models"]
    assert len(models) == 1 + load_experiment("wine", SMALL).institutions.count
    assert "student.safetensors" in models[0]["subject"]
    with scores.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(model["members"] + model["others"] for model in models)
    assert {row["member"] for row in rows} == {"0", "1"}


def test_a_forest_of_a_run_knows_its_members(finished: Path) -> None:
    audits = audit_finished_run(finished, 800, 0)
    assert max(each.strongest.auc.value for each in audits[1:]) > 0.6
    (student,) = audit_finished_run(finished / "student.onnx", 800, 0)
    safetensors = audits[0].findings[0]
    # One student in two files.
    np.testing.assert_allclose(student.findings[0].scores, safetensors.scores, atol=1e-3)


def test_what_is_no_simulation_is_refused(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="expected the folder of a finished run"):
        audit_finished_run(tmp_path, 100, 0)
    manifest = json.loads((finished / "experiment.json").read_text())
    (tmp_path / "experiment.json").write_text(json.dumps({**manifest, "engine": "grpc"}))
    (tmp_path / "student.safetensors").write_bytes((finished / "student.safetensors").read_bytes())
    with pytest.raises(SettingsError, match="fedkd-client audit"):
        audit_finished_run(tmp_path, 100, 0)
    found = CliRunner().invoke(app, ["audit", "membership", str(finished), "--set", "seed=1"])
    assert isinstance(found.exception, FedkdError)
