"""The check of answers by batch statistics, on a small run, end to end."""

from pathlib import Path

import pytest

from fedkd.simulations.checks.batch_statistics import Row, main

SMALL = (
    *("institutions.epochs=4", "student.steps=60", "questions.budget=640"),
    'images.priors=["noise"]',
)


def test_students_of_a_batch_need_its_statistics(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (by_batch,) = Row("noise", "cnn", True).runs("digits", [0], SMALL, tmp_path)
    assert by_batch.teacher > 0.9
    assert by_batch.recalibrated > 0.5
    (plain,) = Row("noise", "cnn-groupnorm", False).runs("digits", [0], SMALL, tmp_path)
    assert plain.own == plain.recalibrated  # it has no batch norm
    assert plain.teacher == by_batch.teacher
    arguments = ["digits", "--seeds", "0", "--priors", "all", "--students", "mlp"]
    fast = ("institutions.epochs=1", "student.steps=2", "questions.budget=64")
    assert main([*arguments, *(part for each in fast for part in ("--set", each))]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines[2:]] == [
        ["all", "mlp", "running"],
        ["all", "mlp", "batch"],
    ]
