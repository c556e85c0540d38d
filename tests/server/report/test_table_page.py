"""Pages of runs on tables and of runs that predict numbers. No engine takes part."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedkd.core.task import Task
from fedkd.domains import Table
from fedkd.errors import DataError
from fedkd.evaluation import expected_calibration_error
from fedkd.protocol import Column, Number
from fedkd.server.report.output_format import number_text
from fedkd.server.report.page import build_report
from fedkd.server.report.page_kinds import domain_page, task_page
from fedkd.server.report.records.run_folder import ROWS, RunFolder, load_run
from fedkd.server.report.records.sample_history import SampleHistory
from fedkd.server.report.score_plot import cut_below
from fedkd.server.report.tables.predictions import TestOutputs, calibration, expected_error
from fedkd.tasks import Classification, Regression

COST = Number("cost", "EUR", 0.0, 5000.0)
STAY = Number("stay", "days", 0.0, 60.0)


def columns(count: int) -> tuple[Column, ...]:
    ward = Column("<b>ward</b>", 0.0, 1.0, levels=("north", "south & west"))
    return (ward, *(Column(f"value {n}", 0.0, 100.0 + n) for n in range(1, count)))


class Linear(nn.Module):
    """Depends the more on a column, the later it is."""

    def __init__(self, columns: int, outputs: int) -> None:
        super().__init__()
        weights = torch.arange(columns).float() / columns**2
        self.weights = nn.Parameter(weights[:, None].repeat(1, outputs))

    def forward(self, rows: Tensor) -> Tensor:
        return rows.flatten(1) @ self.weights


def finished(
    path: Path,
    task: Task,
    count: int = 14,
    test: TestOutputs | None = None,
    curve: Sequence[float] = (-3.0, 0.1, 0.4),
    **changes: Any,
) -> RunFolder:
    """The folder of a run on a table with as many columns."""
    folder, domain = RunFolder.create(path), Table(columns(count))
    scores = {"classes": "accuracy", "numbers": "r2"}[task.kind]
    for step, value in enumerate(curve):
        event = {"kind": "scored", "step": step, "asked": 50 * (step + 1), scores: value}
        folder.append_event(event)
    rng = torch.Generator().manual_seed(0)
    rows = torch.randint(256, (300, 1, 1, count), generator=rng, dtype=torch.uint8)
    student = Linear(count, len(task.names))
    with torch.no_grad():
        targets = student(rows / 255) + 0.1
    shown = task_page(task.record())
    history = SampleHistory(rows, targets, np.full(300, "uniform"), np.arange(300), student, task)
    domain_page(domain.record()).keep(folder, history, domain.record())
    shown.keep(folder, history, test)
    folder.write_result(result(task, domain, **changes))
    return folder


def result(task: Task, domain: Table, **changes: Any) -> dict[str, Any]:
    whole = {
        "samples_asked": 300,
        "samples_pulled_back": 0,
        "bytes_received": 10,
        "bytes_sent": 10,
        "refusals": 0,
        "epsilon": None,
        "delta": None,
        "classes": task.names,
    }
    return {
        "student": {},
        "ensemble": {},
        "teachers": [{"name": name, "model": "forest", **whole} for name in ("North", "South")],
        "classes": task.names,
        "domain": domain.record(),
        "task": task.record(),
        "method": "cudfkd",
        "engine": "local",
        "seed": 0,
        "student_steps": 3,
        "generator_steps": 0,
        "seconds": 1.0,
        "config": {},
        "versions": {},
        **changes,
    }


def text_of(folder: RunFolder) -> str:
    page = build_report(folder.path).read_text(encoding="utf-8")
    assert "<script" not in page
    assert "<b>ward" not in page
    return " ".join(
        unescape(re.sub(r"<style>.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL)).split()
    )


def figures(folder: RunFolder) -> set[str]:
    page = (folder.path / "report.html").read_text(encoding="utf-8")
    return set(re.findall(r'<svg[^>]*aria-label="([^"]*)"', page))


def numbers_test(outputs: int = 1) -> TestOutputs:
    truth = torch.rand(90, outputs, generator=torch.Generator().manual_seed(3))
    return TestOutputs(truth * 0.9, truth * 0.95, truth)


def test_a_page_of_numbers_leads_with_r2_and_errors_in_the_unit(tmp_path: Path) -> None:
    student = {"r2": 0.4394, "rmse": 512.26, "mae": 401.0, "r2_to_ensemble": 0.9096}
    folder = finished(
        tmp_path / "run",
        Regression((COST,)),
        test=numbers_test(),
        student=student,
        ensemble={"r2": 0.48, "rmse": 500.0, "mae": 390.0},
    )
    text = text_of(folder)
    for words in (
        "Student, R² 0.439",
        "Ensemble 0.480",
        "Best single teacher not known no institution released its R²",
        "RMSE in EUR 512 the ensemble's 500",
        "MAE in EUR 401 the ensemble's 390",
        "R² to the ensemble 0.910",
        "R² of the student on the test set",
        "Scores below −0.200, of the first steps, lie beneath the picture",
        "R² RMSE, EUR MAE, EUR student 0.439 512 401 ensemble 0.480 500 390",
        "Each dot is one of 90 test samples",
        "No row here was taken from an institution's data",
        "Its own R² not known",
    ):
        assert words in text, words
    assert "ccuracy" not in text
    assert "image" not in text
    assert {"Student R² against samples asked", "Predictions against truth"} <= figures(folder)


def test_an_error_that_an_owner_tells_stands_at_his_institution(tmp_path: Path) -> None:
    folder, task, domain = tmp_path / "run", Regression((COST,)), Table(columns(14))
    whole = result(task, domain)
    whole["teachers"][1]["number_errors"] = {COST.name: 512.26}
    text = text_of(finished(folder, task, teachers=whole["teachers"]))
    assert text.count("its owner tells an error of") == 1
    assert f"{COST.name} (its owner tells an error of 512.3)" in text


def test_the_curve_of_a_student_that_ends_below_is_not_cut(tmp_path: Path) -> None:
    for name, curve, expected in (("a", (-3.0, 0.1), "−0.200"), ("b", (-3.0, -2.0), "")):
        folder = finished(tmp_path / name, Regression((COST,)), curve=curve)
        record = load_run(folder.path)
        assert cut_below(record.result, record.events) == expected


def test_rows_stand_in_natural_units_with_the_main_columns_first(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run", Regression((COST,)))
    text = text_of(folder)
    shown = [f"value {n}" for n in range(13, 3, -1)]
    assert f"Samples asked Origin {' '.join(shown)} The ensemble's answer" in text
    assert "4 further columns are not shown" in text
    with np.load(folder.path / ROWS) as kept:
        row, answer = kept["rows"][0], kept["answer"][0, 0]
    expected = f"{row[13] / 255 * 113:.1f} {row[12] / 255 * 112:.1f}"
    assert f"0 uniform {expected}" in text
    assert f"{5000 * answer:,.0f} EUR" in text
    assert "Student and ensemble by the main columns" in figures(folder)


def test_without_test_data_the_student_is_compared_with_the_ensemble(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run", Regression((COST, STAY)), curve=())
    text = text_of(folder)
    assert "Student against the ensemble" in text
    assert "300 rows of the bank, on which the student was trained" in text
    assert "Predictions against ensemble" in figures(folder)
    assert "Student, R² not known" in text
    assert "RMSE in" not in text, "several numbers have several units"
    assert re.search(r"cost [\d,]+ EUR, stay [\d.]+ days", text)


def classes_test() -> TestOutputs:
    rng = torch.Generator().manual_seed(3)
    truth = torch.randint(2, (200,), generator=rng)
    logits = torch.randn(200, 2, generator=rng) + nn.functional.one_hot(truth, 2)
    return TestOutputs(logits, 2 * logits, truth)


def test_a_page_of_classes_of_a_table_has_what_skewed_classes_need(tmp_path: Path) -> None:
    scores = {"accuracy": 0.9, "balanced_accuracy": 0.71, "auroc": 0.8768, "ece": 0.041}
    task = Classification(("benign", "malignant"))
    folder = finished(
        tmp_path / "run", task, 3, classes_test(), (0.5, 0.9), student=scores, ensemble=scores
    )
    text = text_of(folder)
    for words in (
        "Student 90.0%",
        "Balanced accuracy 71.0%",
        "AUROC 0.877 the ensemble's 0.877",
        "Calibration error (ECE) 4.1%",
        "student 90.0% 71.0% 0.877 4.1%",
        "Over 200 test samples",
        "P(malignant)",
        "south & west",
    ):
        assert words in text, words
    assert "further columns" not in text
    assert "Accuracy against confidence" in figures(folder)


def test_a_policy_leads_with_its_mean_return(tmp_path: Path) -> None:
    scores = {"accuracy": 0.9, "balanced_accuracy": 0.8, "mean_return": 487.25}
    task = Classification(("left", "right"))
    folder = finished(
        tmp_path / "run", task, 4, None, (0.5,), student=scores, ensemble={"mean_return": 500.0}
    )
    text = text_of(folder)
    assert "Student's mean return 487.2 of an episode; the ensemble's 500" in text
    assert "Mean return Accuracy Balanced accuracy student 487.2 90.0% 80.0%" in text
    assert "Student's accuracy 90.0%" in text
    assert "AUROC" not in text


def test_bins_of_confidence_add_up_to_the_calibration_error() -> None:
    test = classes_test()
    for logits in (test.student, test.ensemble):
        bins = calibration(logits, test.truth)
        assert bins[0].sum() == 200
        expected = expected_calibration_error(logits, test.truth)
        assert expected_error(bins.numpy()) == pytest.approx(expected, abs=1e-12)


def test_a_page_is_made_again_from_its_folder_alone(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run", Regression((COST,)), test=numbers_test())
    first = build_report(folder.path).read_bytes()
    assert build_report(folder.path).read_bytes() == first
    (folder.path / ROWS).unlink()
    assert "No rows were kept" in text_of(folder)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("rows", np.zeros((4, 2), np.uint8), "array rows is uint8"),
        ("importance", np.zeros(14, "U3"), "array importance is <U3"),
        ("column", np.full(6, 99), "names one beyond the 14"),
        ("answer", np.zeros((12, 5), np.float32), "array answer is float32"),
    ],
)
def test_arrays_that_do_not_fit_are_told_in_one_line(
    tmp_path: Path, name: str, value: np.ndarray[Any, Any], says: str
) -> None:
    folder = finished(tmp_path / "run", Regression((COST,)))
    with np.load(folder.path / ROWS) as kept:
        arrays = {**kept, name: value}
    folder.write_arrays(ROWS, arrays)
    with pytest.raises(DataError, match=re.escape(says)) as caught:
        build_report(folder.path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("what", ["task", "domain"])
def test_a_kind_of_a_later_release_is_refused_by_its_name(tmp_path: Path, what: str) -> None:
    folder = finished(tmp_path / "run", Regression((COST,)))
    file = folder.path / "result.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), what: {"kind": "dreams"}}))
    with pytest.raises(DataError, match=f"{what} 'dreams'"):
        build_report(folder.path)


def test_a_page_holds_any_range_that_an_earlier_release_recorded(tmp_path: Path) -> None:
    tiny, wide = Number("tiny", "", 0.0, 5e-324), Number("wide", "", -1e308, 1e308)
    assert (number_text(tiny, 0.0), number_text(wide, -1e300)) == ("0", "−1e+300")
    folder = finished(tmp_path / "run", Regression((tiny,)))
    file = folder.path / "result.json"
    odd = Table((*columns(13), Column("odd", 0.0, 5e-324))).record()
    file.write_text(json.dumps({**json.loads(file.read_text()), "domain": odd}))
    assert " odd " in text_of(folder)


def test_malformed_numbers_of_a_result_are_told(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run", Regression((COST,)))
    file = folder.path / "result.json"
    bad = {"kind": "numbers", "numbers": [{**asdict(COST), "high": 0.0}]}
    file.write_text(json.dumps({**json.loads(file.read_text()), "task": bad}))
    with pytest.raises(DataError, match="ranges from low to high"):
        build_report(folder.path)
