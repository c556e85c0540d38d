"""The check of killed and resumed runs counts kills that happened."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from fedkd.simulations.checks import resume


class Runs:
    """Stands in for the processes: a run takes ``seconds``, as the check believes."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.started = seconds, 0

    def __call__(self, command_line: Sequence[str], log: Path, seconds: float) -> bool:
        words = list(command_line)
        out = Path(words[words.index("--resume" if "--resume" in words else "--out") + 1])
        out.mkdir(exist_ok=True)
        self.started += 1
        (out / "experiment.json").touch()
        if seconds < self.seconds:
            return True
        for name in ("student.safetensors", "events.jsonl", "report.html"):
            (out / name).touch()
        result = {"seconds": 100 if out.name == "whole" else 1, "resumed": 0, "teachers": []}
        (out / "result.json").write_text(json.dumps(result))
        return False


def test_runs_go_on_until_all_kills_happened(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(resume, "prepare_forkserver", lambda: None)
    monkeypatch.setattr(resume, "_run_for", Runs(5.0))  # the first took 100, for its teachers
    trials = list(resume.kill_and_resume(["digits"], tmp_path, kills=6, kills_per_run=2))
    assert sum(trial.kills for trial in trials) == 6
    assert any(trial.kills == 0 for trial in trials), "some run ended first"


def test_a_check_without_its_kills_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(resume, "prepare_forkserver", lambda: None)
    monkeypatch.setattr(resume, "_run_for", runs := Runs(0.0))  # no kill comes soon enough
    assert resume.main(["--kills", "2"]) == 1
    assert runs.started == 1 + resume.MISSES
    assert "0 of 2 kills happened" in capsys.readouterr().err
