"""Embeddings from end to end: interrupted and resumed bit for bit, and what a run leaves."""

import json
from pathlib import Path

import numpy as np
import pytest

from fedkd.experiment import Experiment, load_experiment
from fedkd.server.report.embeddings.kept_relations import KEPT_GALLERY
from fedkd.server.report.records.loop_events import loop_events
from fedkd.simulations import run as runs
from fedkd.simulations.engines.local import LocalInstitutions

SHORT = (
    "institutions.epochs=6",
    "institutions.gallery=150",
    "questions.budget=512",
    "questions.batch=64",
    "questions.held_back=0.1",
    "student.steps=120",
)


def small(*further: str) -> Experiment:
    return load_experiment("digits-embed", [*SHORT, *further])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without a stop, whose replies are recorded."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    runs.run(small(), "local", out, record=True)
    return out


def test_relations_alone_teach_an_embedding(whole: Path) -> None:
    result = json.loads((whole / "result.json").read_text())
    assert result["task"] == {"kind": "embedding", "width": 32}
    assert result["signals_asked"] == ["relations"]
    fresh = result["relations"]["controls"]["random encoder"]["recall_at_1"]
    assert result["student"]["recall_at_1"] > fresh
    assert result["student"]["held_back"]["relation_correlation"] > 0.3
    assert result["ensemble"]["rule"] == "mean_relations"
    assert all(teacher["recall_at_1"] > fresh for teacher in result["teachers"])
    groups = result["relations"]["groups"]
    assert groups["mean relation"]["same_groups"] == 1.0
    assert set(groups) >= {"institution-0", "student", "pixels"}
    page = (whole / "report.html").read_text()
    assert "Who is like whom" in page
    assert "control: pixels" in page
    assert "More scores" not in page, "relations are what the page is looked at for"
    assert "image-feature-extraction" in (whole / "README.md").read_text()


def test_recorded_replies_make_the_same_student(whole: Path, tmp_path: Path) -> None:
    runs.run(small(), "local", tmp_path / "replayed", replay=whole)
    assert loop_events(tmp_path / "replayed") == loop_events(whole) != []
    students = [
        (path / "student.safetensors").read_bytes() for path in (tmp_path / "replayed", whole)
    ]
    assert students[0] == students[1]


class StopError(Exception):
    """The process ends here."""


def test_a_run_that_was_interrupted_ends_with_the_same_student(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, questions = LocalInstitutions.answer, 0

    def answer(self, request):  # type: ignore[no-untyped-def]
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
    runs.resume(out)
    assert (out / "student.safetensors").read_bytes() == (
        whole / "student.safetensors"
    ).read_bytes()


def test_an_asymmetric_student_keeps_the_gallery(tmp_path: Path) -> None:
    one = small(
        *("institutions.count=1", "institutions.partition=iid", 'policy.signals=["features"]'),
        *("method.form=asymmetric", "method.gallery=true", "images.public=typeset-digits"),
    )
    runs.run(one, "local", tmp_path / "one")
    result = json.loads((tmp_path / "one" / "result.json").read_text())
    fresh = result["relations"]["controls"]["random encoder"]["recall_at_1"]
    assert result["student"]["recall_at_1"] > fresh / 2
    with np.load(tmp_path / "one" / KEPT_GALLERY) as kept:
        assert len(kept["images"]) == len(kept["embeddings"]) > 100
        assert kept["embeddings"].shape[1] == 32
