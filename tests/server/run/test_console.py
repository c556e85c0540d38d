"""What a finished run prints."""

import io
import re
import time
from dataclasses import asdict
from typing import Any

import pytest
from rich.console import Console

from fedkd.experiment import load_experiment
from fedkd.loop import Progress
from fedkd.protocol import Number
from fedkd.server.run.console import (
    console,
    held_back_line,
    print_result,
    progress_bars,
    score_line,
)

COST = Number("cost", "EUR", 0.0, 500.0)
NUMBERS = {"kind": "numbers", "numbers": [asdict(COST)]}
TABLE = {"kind": "table", "columns": []}


def test_scores_of_numbers_have_their_unit() -> None:
    scores = {"r2": 0.4394, "rmse": 55.85, "mae": 45.61, "r2_to_ensemble": 0.91}
    assert score_line({"task": NUMBERS, "domain": TABLE}, scores) == (
        "R² 0.439, RMSE 55.9 EUR, MAE 45.6 EUR, R² to the ensemble 0.910"
    )
    several = {"kind": "numbers", "numbers": [asdict(COST), asdict(Number("stay", "days"))]}
    assert score_line({"task": several, "domain": TABLE}, {"r2": 0.5}) == "R² 0.500"
    assert score_line({"task": NUMBERS, "domain": TABLE}, {"r2": None}) == "not known"


def test_classes_of_a_table_have_more_than_an_accuracy() -> None:
    scores = {"accuracy": 0.9, "balanced_accuracy": 0.71, "auroc": 0.8768, "mean_return": None}
    table = {"task": {"kind": "classes"}, "domain": TABLE}
    assert score_line(table, scores) == "90.00%, balanced accuracy 71.00%, AUROC 0.877"
    assert (
        score_line(table, {"accuracy": 0.9, "mean_return": 487.25}) == "90.00%, mean return 487.2"
    )
    assert score_line({}, scores) == "90.00%", "a result of an earlier release is of images"
    assert score_line({}, {"accuracy": None}) == "not known"


def test_teachers_of_numbers_are_printed_by_their_r2() -> None:
    teachers: list[dict[str, Any]] = [
        {"r2": r2, "accuracy": None, "samples_asked": 10, "classes": ("cost",)} for r2 in (0.3, 0.4)
    ]
    result = {
        "task": NUMBERS,
        "domain": TABLE,
        "student": {"r2": 0.5, "recall": None},
        "ensemble": {"r2": 0.6},
        "teachers": teachers,
        "seconds": 1.0,
    }
    with console.capture() as captured:
        print_result(result, "report.html")
    lines = [" ".join(line.split()) for line in captured.get().splitlines()]
    assert "student (last) R² 0.500" in lines
    assert "teachers' ensemble R² 0.600" in lines
    assert "teachers R² 0.300, 0.400" in lines


def test_a_run_without_test_data_ends_in_what_was_held_back() -> None:
    held_back = {"count": 612, "agreement": 0.9575, "kl": 0.1234567, "fidelity": 0.9, "ece": 0.031}
    result = {
        "student": {"accuracy": None, "recall": None, "held_back": held_back},
        "ensemble": {"accuracy": None},
        "teachers": [{"accuracy": None, "samples_asked": 10, "classes": ("a",)}],
        "seconds": 1.0,
    }
    with console.capture() as captured:
        print_result(result, "report.html")
    printed = " ".join(captured.get().split())
    assert "student (last) not known" in printed
    assert (
        "student, held-back samples as the fused answer: 95.75%, KL 0.1235 nats, "
        "calibration error 3.10% (612 samples)"
    ) in printed
    numbers = {"count": 1, "r2": None, "rmse_of_range": 0.05, "rmse": 25.0, "mae": 20.0}
    assert held_back_line(numbers, NUMBERS) == (
        "R² to the fused answer not known, RMSE 5.00% of the range (1 sample)"
    )


def test_bars_show_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=100, color_system=None)
    monkeypatch.setattr("fedkd.server.run.console.console", terminal)
    with progress_bars(load_experiment("digits", ["student.steps=100"])) as bars:
        for step in range(1, 4):
            bars(Progress("trained", {"step": 10 * step}))
            time.sleep(0.15)
    assert re.search(r"30/100 +0:00:00 0:00:0\d left", screen.getvalue())
