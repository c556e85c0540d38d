"""The check of priors by agreement on samples of all of them, on small runs, end to end."""

from pathlib import Path

import pytest

from fedkd.experiment import load_experiment
from fedkd.simulations.checks.prior_agreement import agreements, main
from fedkd.simulations.run import run

SMALL = (
    "institutions.count=2",
    "institutions.epochs=4",
    "institutions.partition=iid",
    "student.steps=300",
    "questions.budget=1600",
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Students of two priors, and of teachers that learned longer."""
    folder = tmp_path_factory.mktemp("runs")
    changes = {
        "pink": ['images.priors=["pink"]'],
        "noise": ['images.priors=["noise"]'],
        "others": ["institutions.epochs=5", "student.steps=5", "questions.budget=64"],
    }
    for name, own in changes.items():
        run(load_experiment("digits", [*SMALL, *own]), "local", folder / name)
    return [folder / name for name in changes]


def test_a_student_agrees_on_samples_of_its_own_prior(
    runs: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    pink, noise = agreements(runs[:2], ["pink", "noise"], 300)
    assert pink[0] > noise[0] + 0.1, "noise teaches little of pink"
    assert pink[0] > 0.5
    assert main([*map(str, runs[:2]), "--priors", "pink,noise", "--samples", "300"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[2].split() == ["pink", *(f"{100 * x:.2f}" for x in (*pink, sum(pink) / 2))]


def test_runs_of_other_teachers_are_refused(
    runs: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*map(str, runs), "--priors", "pink"]) == 1
    assert "2 sets of teachers in 3 runs" in capsys.readouterr().err
    assert main([str(runs[0]), "--priors", "pinc"]) == 1
    assert "pinc" in capsys.readouterr().err


def test_a_folder_that_is_no_run_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path), "--priors", "pink"]) == 1
    assert "result.json" in capsys.readouterr().err
