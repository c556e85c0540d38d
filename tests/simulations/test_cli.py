"""The command line ``fedkd``: files that it writes, and one line for every error."""

import csv
import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from fedkd.client.ledger.hash_chain import LedgerTotals
from fedkd.client.ledger.ledger import Ledger
from fedkd.experiment import load_experiment
from fedkd.protocol import Ask, Request
from fedkd.simulations import cli
from fedkd.simulations.checks.resume import kill_and_resume
from fedkd.simulations.engines.local import LocalInstitutions

SMALL = (
    "--set",
    "student.steps=40",
    "--set",
    "questions.budget=320",
    "--set",
    "institutions.epochs=3",
)


def run_command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run a command line; returns its exit status."""
    monkeypatch.setattr(sys, "argv", ["fedkd", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_a_run_leaves_its_folder_and_a_report_can_be_made_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    arguments = ("run", "digits", "--out", str(out), "--seed", "7", "--record", *SMALL)
    assert run_command(monkeypatch, *arguments) == 0
    result = json.loads((out / "result.json").read_text())
    assert result["seed"] == 7
    assert result["config"]["student"]["steps"] == 40
    assert [t["samples_asked"] for t in result["teachers"]] == [320] * 5
    assert 0 <= result["student"]["accuracy"] <= 1
    assert result["ensemble"]["rule"] == "log_linear_pool"
    assert result["onnx"]["argmax_agreement"] == 1.0
    left = {path.name for path in out.iterdir()}
    assert left == {
        "result.json",
        "report.html",
        "README.md",
        "student.safetensors",
        "student.onnx",
        "events.jsonl",
        "gallery.npz",
        "predictions.npz",
        "replies.bin",
        "experiment.json",
    }
    assert result["resumed"] == 0
    page = (out / "report.html").read_bytes()
    (out / "report.html").unlink()
    assert run_command(monkeypatch, "report", str(out)) == 0
    assert (out / "report.html").read_bytes() == page

    again = tmp_path / "again"
    arguments = ("run", "digits", "--out", str(again), "--seed", "7", "--replay", str(out), *SMALL)
    assert run_command(monkeypatch, *arguments) == 0
    student = "student.safetensors"
    assert (again / student).read_bytes() == (out / student).read_bytes()


def test_a_run_that_is_killed_at_random_moments_ends_as_one_that_is_not(tmp_path: Path) -> None:
    arguments = ["digits", "--checkpoint", "0.1", *SMALL, "--set", "student.model=mlp"]
    arguments += ["--set", "policy.samples=320"]  # charged twice, a question would be one too many
    arguments += ["--set", "institutions.count=2"]
    trials = list(kill_and_resume(arguments, tmp_path, kills=3, kills_per_run=3, seed=1))
    assert sum(trial.kills for trial in trials) == 3
    for trial in trials:
        assert trial.same_student
        assert trial.same_events
        assert trial.same_traffic
        assert trial.resumed <= trial.kills
    for result in tmp_path.glob("*/result.json"):
        teachers = json.loads(result.read_text())["teachers"]
        assert [(t["samples_asked"], t["refusals"]) for t in teachers] == [(320, 0)] * 2
    assert not list(tmp_path.glob("*/checkpoint"))


def test_a_cap_outlives_the_process_that_reached_it(tmp_path: Path) -> None:
    experiment = load_experiment(
        "digits", ["policy.samples=8", "institutions.models=['sklearn:LogisticRegression']"]
    )
    parts = (experiment, tmp_path / "vaults", lambda count: None)
    asks = [Ask(torch.full((4, 1, 8, 8), shade, dtype=torch.uint8)) for shade in range(4)]
    names = {f"institution-{index}" for index in range(5)}

    before = LocalInstitutions(*parts, ledgers=tmp_path / "ledgers")
    assert [before.answer(ask)[0].keys() for ask in asks[:2]] == [names, names]
    # It died before the second answer was recorded: the query is sent again, and not charged again.
    after = LocalInstitutions(*parts, ledgers=tmp_path / "ledgers")
    assert after.answer(asks[1])[0].keys() == names
    assert after.answer(asks[2])[1].keys() == names, "the cap was reached in another life"
    counted = {(t.samples_asked, t.refusals) for t in after.traffic.values()}
    assert counted == {(4, 1)}, "what this process added, and not what the ledgers have"
    for index in range(5):
        with closing(Ledger(tmp_path / "ledgers" / f"{index:04d}.sqlite")) as ledger:
            assert ledger.totals == LedgerTotals(asked=8, refused=1)
    assert LocalInstitutions(*parts).answer(asks[3])[0].keys() == names, (
        "without checkpoints: in memory"
    )


def test_an_interrupted_run_says_how_it_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, ask, left = tmp_path / "run", LocalInstitutions.answer, iter(range(3))

    def pressed(self: LocalInstitutions, request: Request) -> Any:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return ask(self, request)

    monkeypatch.setattr(LocalInstitutions, "answer", pressed)
    assert run_command(monkeypatch, "run", "digits", "--out", str(out), *SMALL) == 130
    hint, end = capsys.readouterr().err.splitlines()[-2:]
    assert hint == f"fedkd: go on with: fedkd run --resume {out}"
    assert end == "fedkd: interrupted"
    monkeypatch.setattr(LocalInstitutions, "answer", ask)
    again = hint.split("fedkd ")[-1].split()

    def pressed_again(folder: Path) -> None:  # the result is written, and its page is not
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("fedkd.server.run.run_recorder.build_report", pressed_again)
        assert run_command(patch, *again) == 130
    assert capsys.readouterr().err.splitlines()[-2:] == [hint, end]
    assert ((out / "checkpoint").exists(), (out / "report.html").exists()) == (True, False)
    assert run_command(monkeypatch, *again) == 0
    assert ((out / "checkpoint").exists(), (out / "report.html").exists()) == (False, True)
    result = json.loads((out / "result.json").read_text())
    assert result["resumed"] == 1
    assert [t["samples_asked"] for t in result["teachers"]] == [320] * 5
    assert run_command(monkeypatch, "run", "--resume", str(out)) == 2
    assert "is finished" in capsys.readouterr().err.splitlines()[-1]


def test_a_comparison_is_a_table_values_and_a_picture(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Seconds a run, and nothing that a comparison reads.
    monkeypatch.setattr(
        "fedkd.server.report.records.run_folder.export_onnx", lambda *_: {"skipped": "no need"}
    )
    out = tmp_path / "a folder whose path is longer than a terminal is wide, since it goes on" / "c"
    arguments = ("compare", "digits", "digits-noise", "--seeds", "2", "--out", str(out), *SMALL)
    arguments += ("--set", "institutions.count=2")
    assert run_command(monkeypatch, *arguments) == 0
    printed = capsys.readouterr().out.splitlines()
    assert f"report: {out / 'digits-0' / 'report.html'}" in printed, "in one piece"
    assert not any("\x1b" in line for line in printed), "no colours in a pipe"
    with (out / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["experiment"], r["seed"]) for r in rows] == [
        (name, seed) for name in ("digits", "digits-noise") for seed in "01"
    ]
    for row in rows:
        result = json.loads((out / f"{row['experiment']}-{row['seed']}/result.json").read_text())
        assert float(row["student"]) == result["student"]["accuracy"]
    table = (out / "comparison.md").read_text().splitlines()
    mean = 50 * sum(float(r["student"]) for r in rows[:2])
    assert f"| digits | {mean:.2f}% ±" in table[2]
    assert (out / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (out / "comparison.svg").read_bytes()


def test_methods_are_listed_with_what_they_ask(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(monkeypatch, "methods") == 0
    output = capsys.readouterr().out
    assert "cudfkd" in output
    assert "bn_gap" in output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("run", "digits", "--set", "student.stepz=3"), "did you mean steps?"),
        (("run", "digitz"), "did you mean digits?"),
        (("run", "digits", "--engine", "warp"), "choose one of local, simulation"),
        (("run", "mnist", "--set", "institutions.root=/nowhere"), "cannot be read"),
        (("run", "digits", "--set", "method.gradient=pull_back"), "policy.signals"),
        (("run", "digits", "--set", "method={name='dream'}"), "unknown method 'dream'"),
        (("run", "digits", "--set", "student.model=cnm"), "did you mean cnn?"),
        (("run", "digits", "--out", "taken"), "the run folder taken is not empty"),
        (("run", "digits", "--replay", "nowhere"), "cannot read nowhere/replies.bin"),
        (("run", "digits", "--replay", "taken"), "is no recording of replies"),
        (("run", "digits", "--resume", "nowhere"), "--resume DIR and nothing else"),
        (("report", "nowhere"), "is not a folder"),
        (("partition", "digits", "taken"), "expected a file name that ends in .npz"),
        (("partition", "digits", "no/parts.npz"), "in a folder that is"),
        (("compare", "digits", "--seeds", "0"), "expected 1 or more"),
    ],
)
def test_a_mistake_is_one_line_and_status_two(
    arguments: tuple[str, ...],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "replies.bin").write_bytes(b"notes of somebody")
    assert run_command(monkeypatch, *arguments, *(SMALL if arguments[0] == "run" else ())) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["taken"], "nothing was begun"
    errors = [line for line in printed.err.splitlines() if "loading" not in line]
    assert len(errors) == 1
    assert errors[0].startswith("fedkd: ")
    assert says in errors[0]


def test_help_does_not_wait_for_torch() -> None:
    code = (
        "import sys; sys.argv = ['fedkd', '--help']\n"
        "from fedkd.simulations.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "assert 'torch' not in sys.modules and 'flwr' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "compare" in done.stdout
