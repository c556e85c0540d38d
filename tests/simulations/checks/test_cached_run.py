"""Cached runs of checks: made once, and never taken for those of other settings."""

from pathlib import Path

import pytest

from fedkd.errors import SettingsError
from fedkd.experiment import load_experiment
from fedkd.simulations.checks.cached_run import run_cached

SMALL = ("institutions.epochs=1", "questions.budget=64", "student.steps=2", "student.model=mlp")


def test_a_run_is_made_once_and_is_not_that_of_other_settings(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run_cached(load_experiment("digits", SMALL), folder)
    before = (folder / "result.json").stat().st_mtime_ns
    run_cached(load_experiment("digits", SMALL), folder)
    assert (folder / "result.json").stat().st_mtime_ns == before
    with pytest.raises(SettingsError, match="run holds a run of other settings"):
        run_cached(load_experiment("digits", [*SMALL, "student.steps=3"]), folder)
