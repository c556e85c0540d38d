"""Speed and steadiness of reproductions: figures of a curve that is worked out by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from fedkd.simulations.reproduction.learning_speed import HEADER, draw, main, rows_of


def result(scores: list[float], teacher: float = 80.0) -> dict[str, Any]:
    return {
        "figure": scores[-1],
        "best": max(scores),
        "teacher": teacher,
        "rounds": 100 * len(scores),
        "curve": [[100 * n, 1000 * n, score] for n, score in enumerate(scores, 1)],
    }


def test_mean_and_variance_are_those_of_the_scores_and_of_their_second_half() -> None:
    (row,) = rows_of({"cudfkd": result([10, 50, 60, 40])})
    # mean 40, variance (900 + 100 + 400 + 0) / 4; of 60 and 40 alone 50 and 100
    assert row.startswith("| `cudfkd` | 40.0 | 60.0 | 40.0 | 350.0 | 50.0 | 100.0 |")
    assert len(row.split("|")) == len(HEADER.splitlines()[0].split("|"))


def test_a_score_is_reached_at_its_first_95_percent() -> None:
    fast, slow = rows_of({"fast": result([58, 77, 80, 60]), "slow": result([10, 20, 30, 40])})
    assert fast.endswith("| 50 % | 50 % |")  # 77 is above .95 of 80, the best and the teacher
    assert slow.endswith("| 100 % | never |")


def test_curves_stand_in_one_plot_with_the_teacher() -> None:
    (axes,) = draw({"a": result([10, 20]), "b": result([30, 40])}).axes
    a, b, teacher = axes.lines
    assert list(a.get_ydata()) == [10, 20]  # type: ignore[arg-type]
    assert list(b.get_xdata()) == [1000, 2000]  # type: ignore[arg-type]
    assert set(teacher.get_ydata()) == {80.0}  # type: ignore[arg-type]


def test_the_command_calls_a_run_by_its_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, drawing = tmp_path / "without-ramp.json", tmp_path / "curves.svg"
    file.write_text(json.dumps(result([10, 20])))
    monkeypatch.setattr("sys.argv", ["learning_speed", str(file), "--svg", str(drawing)])
    main()
    assert "| `without-ramp` |" in capsys.readouterr().out
    assert b"without-ramp" in drawing.read_bytes()
