"""Comparisons: variants, resuming, tables and plots."""

import csv
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from fedkd.errors import QuorumLost, RunsFailed, SettingsError
from fedkd.experiment import load_experiment
from fedkd.server.run.checkpoint import Checkpoint
from fedkd.simulations.compare import comparison
from fedkd.simulations.compare.comparison import compare
from fedkd.simulations.compare.comparison_page import write_comparison_page
from fedkd.simulations.compare.comparison_plots import comparison_plots
from fedkd.simulations.compare.tables import (
    COLUMNS,
    DEFAULT_COLUMNS,
    NUMBER_COLUMNS,
    ComparisonRow,
    cell,
    default_columns,
    markdown,
    select_columns,
    table,
)
from fedkd.simulations.compare.variants import variants
from fedkd.simulations.run import run

SMALL = (
    "student.steps=20",
    "questions.budget=128",
    "institutions.epochs=1",
    "institutions.count=2",
    'images.priors=["pink"]',
)


def test_rows_are_every_experiment_by_every_method_by_every_value(tmp_path: Path) -> None:
    file = tmp_path / "methods.toml"
    file.write_text(
        'exact = { name = "cudfkd", gradient = "pull_back", policy = { pull_back = true } }\n'
        "[dfme]\ngenerator_rate = 2e-3\n"
    )
    sweeps = ["questions.batch=32,64", "privacy.epsilon=none,3"]
    rows = variants(["digits", "digits-noise"], str(file), sweeps, ["student.steps=7"])
    assert len(rows) == 2 * 2 * 2 * 2
    assert rows[1].label == "digits exact batch=32 epsilon=3"
    assert rows[0].family == rows[1].family == "digits exact batch=32"
    assert rows[1].folder(4) == "digits_exact_batch=32_epsilon=3-4"
    exact, private = rows[0].experiment(4), rows[1].experiment(4)
    assert (exact.seed, exact.student.steps, exact.questions.batch) == (4, 7, 32)
    assert exact.method.name == "cudfkd"
    assert exact.method.arguments == {"gradient": "pull_back"}
    assert exact.policy.pull_back
    assert (exact.privacy.epsilon, private.privacy.epsilon) == (None, 3)
    dfme = rows[-1].experiment(0)
    assert dfme.method.arguments == {"generator_rate": 2e-3}
    assert not dfme.policy.pull_back


def test_a_draw_is_of_the_partition_too() -> None:
    (digits,) = variants(["digits"])
    one, other = (digits.experiment(seed, drawn=True) for seed in (0, 1))
    assert [(e.seed, e.institutions.partition_seed) for e in (one, other)] == [(0, 0), (1, 1)]
    assert digits.experiment(1).institutions.partition_seed == 0
    (diabetes,) = variants(["diabetes"])
    with pytest.raises(SettingsError, match=r"--draws with institutions\.partition 'column'"):
        diabetes.experiment(0, drawn=True)


def test_draws_have_a_standard_error(tmp_path: Path) -> None:
    results = tuple({"student": {"accuracy": share}} for share in (0.90, 0.92, 0.94, 0.96))
    drawn = ComparisonRow("a", "a", results, (tmp_path,) * 4, drawn=True)
    assert cell(drawn, "student") == "93.00% ± 1.29"  # 2.58 / 2
    assert cell(ComparisonRow("a", "a", results, (tmp_path,) * 4), "student") == "93.00% ± 2.58"
    assert table([drawn], ["student"], 4).title == "mean ± standard error over 4 draws"
    assert table([drawn], ["student"], 1).title == "of 1 draw"


def test_a_method_comes_with_what_its_experiment_asks_for_and_draws() -> None:
    rows = variants(["mnist"], "dafl,digits-cmi,digits-dip_kd,digits-pullback")
    assert [row.label for row in rows] == [
        "mnist dafl",
        "mnist digits-cmi",
        "mnist digits-dip_kd",
        "mnist digits-pullback",
    ]
    dafl, cmi, dip_kd, pullback = (row.experiment(0) for row in rows)
    plain = load_experiment("mnist")
    assert (dafl.method.arguments, dafl.policy, dafl.images) == ({}, plain.policy, plain.images)
    own = load_experiment("digits-cmi")
    assert (cmi.method, cmi.policy, cmi.images) == (own.method, own.policy, plain.images)
    assert (cmi.student, cmi.questions) == (plain.student, plain.questions)
    assert dip_kd.images.warp == load_experiment("digits-dip_kd").images.warp != plain.images.warp
    assert pullback.method.name == "cudfkd"
    with pytest.raises(SettingsError, match="digits-cmj"):
        variants(["mnist"], "digits-cmj")


def test_none_takes_away_what_the_file_promises() -> None:
    bare, private = variants(["digits-dp"], sweeps=["privacy.epsilon=none,1"])
    assert bare.experiment(0).privacy.epsilon is None
    assert private.experiment(0).privacy.epsilon == 1
    own = load_experiment("digits").method.arguments
    (absent,) = variants(["digits"], sweeps=["method.curriculum=none"])
    assert absent.experiment(0).method.arguments == own


def test_none_in_quotation_marks_is_a_word() -> None:
    for sweep in ('method.curriculum=log,"none"', 'method.curriculum="log","none"'):
        rows = variants(["digits"], sweeps=[sweep])
        assert [row.experiment(0).method.arguments["curriculum"] for row in rows] == ["log", "none"]


def test_values_may_be_lists_and_words() -> None:
    rows = variants(["digits"], "dafl, zskt", ['images.priors=["pink"],["pink","leaves"]'])
    assert [row.experiment(0).images.priors for row in rows[:2]] == [("pink",), ("pink", "leaves")]
    assert [row.experiment(0).method.name for row in rows] == ["dafl", "dafl", "zskt", "zskt"]
    arguments = variants(["digits"], sweeps=["institutions.partition=iid,dirichlet"])
    assert [row.experiment(0).institutions.partition for row in arguments] == ["iid", "dirichlet"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"names": ["digits", "digits"]}, "'digits' stands twice"),
        ({"names": ["digits"], "sweeps": ["seed"]}, "expected section.key=value"),
        ({"names": ["digits"], "sweeps": ["questions.batch="]}, "expected section.key=value"),
        ({"names": ["digits"], "methods": "dafl,,zskt"}, "expected names"),
        ({"names": ["digits"], "methods": "nowhere.toml"}, "cannot read nowhere.toml"),
    ],
)
def test_a_comparison_that_makes_no_sense_is_one_line(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError, match=says) as caught:
        variants(**arguments)
    assert "\n" not in str(caught.value)


def test_a_wrong_column_or_value_is_told_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no 'studnet', did you mean|no 'studnet'.*student"):
        compare(["digits"], 1, "local", tmp_path, columns="studnet")
    with pytest.raises(SettingsError, match="epsilon"):
        compare(["digits"], 1, "local", tmp_path, sweeps=["privacy.epsilon=1,-1"])
    assert not list(tmp_path.iterdir())


def test_a_comparison_cut_short_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began: list[str] = []
    resumed: list[str] = []
    run, resume = comparison.run, comparison.resume

    def counted(experiment: Any, engine: str, out: Path, **how: Any) -> Any:
        began.append(out.name)
        if len(began) == 3:
            raise KeyboardInterrupt
        return run(experiment, engine, out, **how)

    def taken_up(path: Path) -> Any:
        resumed.append(path.name)
        return resume(path)

    # Seconds a run, and nothing that a comparison reads.
    monkeypatch.setattr(
        "fedkd.server.report.records.run_folder.export_onnx", lambda *_: {"skipped": "no need"}
    )
    monkeypatch.setattr(comparison, "run", counted)
    monkeypatch.setattr(comparison, "resume", taken_up)
    arguments = (["digits"], 2, "local", tmp_path / "out", SMALL)
    sweeps = ["questions.batch=32,64"]
    with pytest.raises(KeyboardInterrupt):
        compare(*arguments, sweeps=sweeps)
    modified = (tmp_path / "out" / "digits_batch=32-0" / "result.json").stat().st_mtime_ns
    # A run that was under way: what is left of one that was killed as its first events came.
    under_way = tmp_path / "out" / "digits_batch=64-0"
    experiment = variants(["digits"], sweeps=sweeps, overrides=SMALL)[1].experiment(0)
    checkpoint = Checkpoint.begin(under_way, experiment, "local", every=60.0)
    checkpoint.close()
    rows = compare(*arguments, sweeps=sweeps)
    assert began == [
        "digits_batch=32-0",
        "digits_batch=32-1",
        "digits_batch=64-0",
        "digits_batch=64-1",
    ]
    assert resumed == ["digits_batch=64-0"]
    assert (tmp_path / "out" / "digits_batch=32-0" / "result.json").stat().st_mtime_ns == modified
    again = compare(*arguments, sweeps=sweeps)
    assert len(began) == 4
    assert [row.results for row in again] == [row.results for row in rows]
    check_files(tmp_path / "out", rows)
    (tmp_path / "out" / "digits_batch=32-0").rename(tmp_path / "out" / "digits_batch=16-0")
    with pytest.raises(SettingsError, match=r"other settings \(in questions \(batch: 32, now 16"):
        compare(*arguments, sweeps=["questions.batch=16"])


def test_a_run_that_fails_takes_no_other_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "fedkd.server.report.records.run_folder.export_onnx", lambda *_: {"skipped": "no need"}
    )
    arguments = (["digits"], 1, "local")
    # Institutions of which half of the questions are too many answer none of the rest.
    expected = r"1 of 3 runs failed.* the first, digits_samples=64-0: 0 of 2 institutions"
    with pytest.raises(RunsFailed, match=expected):
        compare(*arguments, tmp_path / "a", SMALL, sweeps=["policy.samples=none,64,128"])
    with (tmp_path / "a" / "comparison.csv").open() as file:
        rows = [line["experiment"] for line in csv.DictReader(file)]
    assert rows == ["digits samples=none", "digits samples=128"]
    assert "digits_samples=64-0 failed: " in capsys.readouterr().out
    with pytest.raises(QuorumLost):
        compare(*arguments, tmp_path / "b", SMALL, sweeps=["policy.samples=64,128"])
    assert not (tmp_path / "b" / "digits_samples=128-0").exists()


def test_jobs_make_the_same_students_and_train_no_teacher_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (["digits"], 1, "local", tmp_path / "out", SMALL)
    sweeps = ["policy.samples=none,64"]
    with pytest.raises(RunsFailed, match=r"1 of 2 runs failed.*0 of 2 institutions.*\.log\)"):
        compare(*arguments, sweeps=sweeps, jobs=2)
    assert "2 of 2: " in capsys.readouterr().out
    log = (tmp_path / "out" / "digits_samples=none-0.log").read_text()
    assert "report: " in log
    (experiment,) = (row.experiment(0) for row in variants(["digits"], overrides=SMALL))
    run(experiment, "local", tmp_path / "alone")
    one, other = (
        (folder / "student.safetensors").read_bytes()
        for folder in (tmp_path / "alone", tmp_path / "out" / "digits_samples=none-0")
    )
    assert one == other
    with pytest.raises(SettingsError, match="--jobs 2 with --engine simulation"):
        compare(["digits"], 1, "simulation", tmp_path / "no", SMALL, jobs=2)


def check_files(out: Path, rows: list[ComparisonRow]) -> None:
    with (out / "comparison.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [(line["experiment"], line["seed"]) for line in lines] == [
        (f"digits batch={batch}", seed) for batch in (32, 64) for seed in "01"
    ]
    for line in lines:
        expected = json.loads((out / line["folder"] / "result.json").read_text())
        assert float(line["student"]) == expected["student"]["accuracy"]
        events = (out / line["folder"] / "events.jsonl").read_text().splitlines()
        scores = [e["accuracy"] for e in map(json.loads, events) if e["kind"] == "scored"]
        assert expected["student"]["scores"] == len(scores) > 1
        assert float(line["mean"]) == pytest.approx(sum(scores) / len(scores))
        assert float(line["fidelity"]) == expected["student"]["fidelity"]
        assert int(line["asked"]) == 128
        assert line["epsilon"] == ""
    assert "digits batch=32" in (out / "comparison.md").read_text()
    assert (out / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert "digits batch=64" in (out / "comparison.html").read_text()
    assert not (out / "epsilon.png").exists()


def plotted(rows: list[ComparisonRow], out: Path) -> list[str]:
    """Save all plots; returns their names."""
    plots = comparison_plots(rows)
    for plot in plots:
        plot.save(out)
    return [plot.name for plot in plots]


def made_up(out: Path, label: str, seed: int, epsilon: float | None, student: float) -> Path:
    """A run's folder with as much as the pictures read."""
    folder = out / f"{label}-{seed}".replace(" ", "_")
    folder.mkdir(parents=True)
    named = {"name": "a", "model": "cnn", "accuracy": 0.7, "samples_asked": 1000}
    counted = {"samples_pulled_back": 0, "bytes_received": 0, "bytes_sent": 0, "refusals": 0}
    promise = {"epsilon": epsilon, "delta": epsilon and 1e-5}
    result = {
        "student": {"accuracy": student, "variance_of_accuracy": 0.0123, "agreement": 0.9},
        "ensemble": {"accuracy": 0.95},
        "teachers": [{**named, **counted, **promise}],
        "method": "cudfkd",
        "engine": "local",
        "seed": seed,
        "student_steps": 100,
        "generator_steps": 0,
        "seconds": 12.0,
        "config": {},
        "versions": {},
    }
    (folder / "result.json").write_text(json.dumps(result))
    scores = [(100 * i, student * (1 - 0.5**i)) for i in range(1, 11)]
    scores += [(1000, student * 0.999), (1000, student)]
    events = [
        {"kind": "scored", "step": step, "asked": asked, "accuracy": accuracy}
        for step, (asked, accuracy) in enumerate(scores)
    ]
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    return folder


def row(
    out: Path, label: str, family: str, epsilon: float | None, *students: float
) -> ComparisonRow:
    folders = [made_up(out, label, seed, epsilon, s) for seed, s in enumerate(students)]
    results = tuple(json.loads((folder / "result.json").read_text()) for folder in folders)
    return ComparisonRow(label, family, results, tuple(folders))


def test_cells_have_mean_and_sample_deviation(tmp_path: Path) -> None:
    found = row(tmp_path, "digits", "digits", None, 0.9, 0.92, 0.94)
    assert cell(found, "student") == "92.00% ± 2.00"
    assert cell(found, "agreement") == "90.00% ± 0.00"
    assert cell(found, "variance") == "123.0 ± 0.0"
    assert cell(found, "ensemble") == "95.00%"
    assert cell(found, "asked") == "1,000"
    assert cell(found, "epsilon") == "none"
    assert cell(found, "fidelity") == "not known"
    assert cell(row(tmp_path, "one", "one", 3.0, 0.9), "student") == "90.00%"
    table = markdown([found], select_columns("student,asked")).splitlines()
    assert table == [
        "| experiment | student, last | asked of each |",
        "|---|---:|---:|",
        "| digits | 92.00% ± 2.00 | 1,000 |",
    ]
    assert default_columns([found]) == DEFAULT_COLUMNS
    private = row(tmp_path, "private", "private", 3.0, 0.9)
    assert set(default_columns([found, private])) == {*DEFAULT_COLUMNS, "epsilon"} <= set(COLUMNS)


def test_pictures_name_every_row_and_put_no_promise_at_the_edge(tmp_path: Path) -> None:
    rows = [
        row(tmp_path, f"{name} epsilon={epsilon or 'none'}", name, epsilon, *students)
        for name, students in (("digits", (0.9, 0.92)), ("noise", (0.4, 0.5)))
        for epsilon in (1.0, 8.0, None)
    ]
    assert plotted(rows, tmp_path) == ["comparison", "curves", "epsilon"]
    dots, asked, promised = (tmp_path / f"{n}.svg" for n in ("comparison", "curves", "epsilon"))
    assert all(row.label in asked.read_text() for row in rows)
    assert all(row.label in dots.read_text() for row in rows)
    assert ">91.00% ± 1.41<" in dots.read_text()
    assert "samples asked of each institution" in asked.read_text()
    text = promised.read_text()
    assert text.index(">1<") < text.index(">8<") < text.index(">none<")
    assert ">digits<" in text
    assert ">noise<" in text
    before = asked.read_bytes(), dots.read_bytes()
    plotted(rows, tmp_path)
    assert (asked.read_bytes(), dots.read_bytes()) == before


def test_of_many_rows_the_best_is_first_and_each_has_its_own_panel(tmp_path: Path) -> None:
    students = [0.3, 0.9, 0.5, 0.7, 0.1, 0.8, 0.2, 0.6, 0.4]
    rows = [row(tmp_path, f"line-{s}", "line", None, s, s) for s in students]
    plotted(rows, tmp_path)
    text = (tmp_path / "curves.svg").read_text()
    places = [text.index(f">line-{s}<") for s in sorted(students, reverse=True)]
    assert places == sorted(places)
    assert text.count("FillBetweenPolyCollection") == len(rows), "a panel has one band"
    dots = (tmp_path / "comparison.svg").read_text()
    ticks = [dots.index(f">line-{s}<") for s in sorted(students)]
    assert ticks == sorted(ticks), "from below to the top, where the best is"
    plotted(rows[:3], tmp_path)
    few = (tmp_path / "curves.svg").read_text()
    assert few.index(">line-0.3<") < few.index(">line-0.9<")


def test_the_page_of_a_comparison_has_plots_figures_and_links(tmp_path: Path) -> None:
    rows = [
        row(tmp_path, "digits <b>", "digits", None, 0.9, 0.92),
        row(tmp_path, "noise", "noise", 3.0, 0.4, 0.5),
    ]
    plots = comparison_plots(rows)
    page = write_comparison_page(rows, ("student", "asked"), plots, tmp_path).read_text()
    assert "Two experiments compared" in page
    assert "digits &lt;b&gt;" in page
    assert "<b>digits <b>" not in page
    assert "<script" not in page
    assert page.count("<svg") == 2 * len(plots) == 6, "for wide pages and for telephones"
    assert "91.00% ± 1.41" in page
    assert "over 2 seeds" in page
    links = re.findall(r'href="([^"]*/report.html)"', page)
    assert [(tmp_path / unquote(link)).parent for link in links] == [
        folder for each in rows for folder in each.folders
    ]
    alone = [row(tmp_path, "alone", "alone", None, 0.9)]
    page = write_comparison_page(alone, ("student",), comparison_plots(alone), tmp_path).read_text()
    assert "seeds" not in page, "nothing is said of several"
    assert "1 seed" in page


def numbers_row(out: Path, label: str, *scores: float) -> ComparisonRow:
    """A row of runs that predict a number of a table, with an untrained student far below."""
    made = row(out, label, label, None, *scores)
    numbers = [{"name": "cost", "unit": "EUR", "low": 0.0, "high": 9.0}]
    for folder, score in zip(made.folders, scores, strict=True):
        file = folder / "result.json"
        result = json.loads(file.read_text())
        result["task"] = {"kind": "numbers", "numbers": numbers}
        result["domain"] = {"kind": "table", "columns": []}
        result["student"] = {"r2": score, "rmse": 1234.56, "r2_to_ensemble": 0.9}
        result["ensemble"] = {"r2": 0.75}
        result["teachers"][0].update(accuracy=None, r2=0.5)
        file.write_text(json.dumps(result))
        curve = [(100, -40.0), (200, score / 2), (1000, score)]
        events = [
            {"kind": "scored", "step": asked, "asked": asked, "r2": value} for asked, value in curve
        ]
        lines = "".join(json.dumps(event) + "\n" for event in events)
        (folder / "events.jsonl").write_text(lines)
    results = tuple(json.loads((folder / "result.json").read_text()) for folder in made.folders)
    return ComparisonRow(made.label, made.family, results, made.folders)


def test_numbers_are_compared_by_r2(tmp_path: Path) -> None:
    found = numbers_row(tmp_path, "cost", 0.4, 0.5)
    assert default_columns([found]) == NUMBER_COLUMNS
    assert cell(found, "r2") == "0.450 ± 0.071"
    assert cell(found, "rmse") == "1235 ± 0"
    assert cell(found, "ensemble_r2") == "0.750"
    assert cell(found, "teachers_r2") == "0.500"
    assert cell(found, "student") == "not known"
    assert plotted([found], tmp_path) == ["comparison", "curves"]
    text = (tmp_path / "curves.svg").read_text()
    assert "R² on test data" in text
    assert "−40" not in text, "the untrained student would hide all the others"
    assert "0.450 ± 0.071" in (tmp_path / "comparison.svg").read_text()


def test_embeddings_are_compared_by_recall(tmp_path: Path) -> None:
    short = ("institutions.epochs=1", "questions.budget=128", "student.steps=4")
    rows = compare(["digits-embed"], 1, "local", tmp_path, short)
    assert default_columns(rows)[:2] == ("recall_at_1", "recall_at_5")
    assert rows[0].mean("recall_at_1") is not None
    assert "recall@1" in (tmp_path / "comparison.md").read_text()
    assert (tmp_path / "comparison.svg").exists()


def test_tasks_that_cannot_be_compared_have_plots_of_their_own(tmp_path: Path) -> None:
    rows = [numbers_row(tmp_path, "cost", 0.4), row(tmp_path, "digits", "digits", 2.0, 0.9)]
    assert plotted(rows, tmp_path) == [
        *("comparison-numbers", "curves-numbers"),
        *("comparison-classes", "curves-classes", "epsilon-classes"),
    ]
    numbers, classes = (
        (tmp_path / f"comparison-{kind}.svg").read_text() for kind in ("numbers", "classes")
    )
    assert ">cost<" in numbers
    assert ">digits<" not in numbers
    assert ">digits<" in classes
    assert "accuracy on test data" in classes
    columns = default_columns(rows)
    assert set(columns) == {*NUMBER_COLUMNS, *DEFAULT_COLUMNS, "epsilon"}
    assert columns[-2:] == ("asked", "seconds")


def test_classes_of_a_table_are_compared_by_more_than_accuracy(tmp_path: Path) -> None:
    plain = row(tmp_path, "cancer", "cancer", None, 0.9)
    student = {**plain.results[0]["student"], "balanced_accuracy": 0.8, "auroc": 0.95}
    result = {**plain.results[0], "student": student}
    images = ComparisonRow("cancer", "cancer", (result,), plain.folders)
    assert default_columns([images]) == DEFAULT_COLUMNS
    table = {**result, "domain": {"kind": "table", "columns": []}}
    found = ComparisonRow("cancer", "cancer", (table,), plain.folders)
    assert default_columns([found])[:3] == ("student", "balanced_accuracy", "auroc")
    assert cell(found, "auroc") == "0.950"
    assert cell(found, "balanced_accuracy") == "80.00%"
