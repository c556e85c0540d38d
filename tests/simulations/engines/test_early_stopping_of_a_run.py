"""Early stopping through a whole run: what was saved is in the result, on the page and printed."""

import re
from pathlib import Path

import pytest

from fedkd.experiment import load_experiment
from fedkd.server.report.records.run_folder import load_run
from fedkd.server.run.console import console, print_result
from fedkd.simulations.run import run

SMALL = (
    "institutions.count=2",
    'institutions.models=["sklearn:LogisticRegression"]',
    "student.steps=60",
    "questions.budget=200",
    "questions.batch=5",
    "questions.held_back=0.3",
    "questions.asking=0.9",
)


@pytest.mark.parametrize("stop", [1, None])
def test_questions_saved_are_told_wherever_one_looks(stop: int | None, tmp_path: Path) -> None:
    sets = [*SMALL, *([] if stop is None else [f"questions.stop={stop}"])]
    folder = tmp_path / "run"
    run(load_experiment("breast-cancer", sets), "local", folder)
    result = load_run(folder).result
    asked = max(teacher.samples_asked for teacher in result.teachers)
    page = re.sub(r"<[^>]*>|\s+", " ", (folder / "report.html").read_text())
    with console.capture() as captured:
        print_result(result.model_dump(mode="json"), folder / "report.html")
    printed = " ".join(captured.get().split())
    if stop is None:
        assert result.questions_saved is None
        assert asked == 200
        assert "stopped early" not in page + printed
    else:
        assert result.questions_saved is not None
        assert 0 < result.questions_saved == 200 - asked
        assert f"stopped early, {result.questions_saved} saved" in page
        assert f"stopped early: {result.questions_saved} samples saved" in printed
    assert "To 95 %" in page
    assert f"{result.student.questions_to_95} samples" in page
