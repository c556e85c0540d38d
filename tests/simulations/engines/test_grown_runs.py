"""Runs that go on with the student of an earlier one, end to end, and what is refused before."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

import fedkd
from fedkd.client.sessions.agent import Agent
from fedkd.errors import DataError, FedkdError, SettingsError
from fedkd.experiment import Experiment, Grow, load_experiment
from fedkd.protocol import Ask, Card, PullBack, Reply, Signal, check_growth
from fedkd.server.run.checkpoint import Checkpoint
from fedkd.server.run.earlier_run import grown_from
from fedkd.simulations.compare.comparison import compare
from fedkd.simulations.run import after_first_run, resume, run
from tests.support.server_process import SOON, running_server

SMALL = (
    *("questions.budget=96", "questions.batch=32", "student.steps=12", "student.batch=16"),
    *("institutions.epochs=1", "seed=3"),
)


def experiment(name: str, *overrides: str) -> Experiment:
    return load_experiment(name, [*SMALL, *overrides])


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the digits 0 to 4."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    run(experiment("digits-grow-first"), "local", folder)
    return folder


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


def test_who_left_is_asked_nothing_and_the_student_knows_all_classes(first: Path) -> None:
    folder = first.parent / "grown"
    settings = grown_from(experiment("digits-grow", "method.generated=0.5"), first)
    run(settings, "local", folder)
    result = record(folder)
    names = [teacher["name"] for teacher in result["teachers"]]
    assert names == ["institution-2", "institution-3"]
    assert all(teacher["samples_asked"] == 96 for teacher in result["teachers"])
    growth = result["growth"]
    assert growth["left"] == [
        {"name": name, "samples_asked": 0, "questions": 0}
        for name in ("institution-0", "institution-1")
    ]
    assert growth["classes"] == list("01234")
    assert growth["new_classes"] == list("56789")
    assert growth["weights_copied"]
    assert 0 <= growth["old_accuracy"] <= 1
    assert result["generator_steps"] > 0
    assert fedkd.load(folder).classes == tuple("0123456789")
    page = (folder / "report.html").read_text()
    assert "institution-0, institution-1" in page
    assert "were asked about\nnothing in this one" in page
    assert "goes on with the student of the run first" in (folder / "README.md").read_text()


def test_a_grown_run_that_was_interrupted_ends_as_one_that_was_not(
    first: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = grown_from(experiment("digits-grow"), first)
    whole, broken = first.parent / "whole", first.parent / "broken"
    run(settings, "local", whole, checkpoint=60.0)
    asked = 0
    honest = fedkd.simulations.engines.local.LocalInstitutions.answer

    def fails(self: Any, request: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked == 3:
            raise KeyboardInterrupt
        return honest(self, request)

    with monkeypatch.context() as patched:
        patched.setattr(fedkd.simulations.engines.local.LocalInstitutions, "answer", fails)
        with pytest.raises(KeyboardInterrupt):
            run(settings, "local", broken, checkpoint=60.0)
    resume(broken)
    students = [fedkd.load(folder).network.state_dict() for folder in (whole, broken)]
    assert all(torch.equal(weight, students[1][name]) for name, weight in students[0].items())
    counts = [[t["samples_asked"] for t in record(f)["teachers"]] for f in (whole, broken)]
    assert counts[0] == counts[1] == [96, 96]


def two_phases(tmp_path: Path) -> str:
    """The file of an experiment, and beside it that of its first run."""
    (tmp_path / "both.toml").write_text(
        Path(fedkd.experiment.SHIPPED_FOLDER, "digits-grow.toml")
        .read_text()
        .replace('"digits-grow-first"', f'"{tmp_path / "before.toml"}"')
    )
    (tmp_path / "before.toml").write_text(
        "\n".join(
            [
                'questions = {budget = 64}\nstudent = {steps = 4, model = "mlp"}',
                '[institutions]\nepochs = 1\ncount = 4\npresent = [0, 1]\npartition = "iid"',
                'labels = [["0", "1", "2", "3", "4"], ["0", "1", "2", "3", "4"],',
                '["5", "6", "7", "8", "9"], ["5", "6", "7", "8", "9"]]',
            ]
        )
    )
    return str(tmp_path / "both.toml")


def test_both_phases_are_run_where_no_earlier_run_is_named(tmp_path: Path) -> None:
    settings = load_experiment(two_phases(tmp_path), [*SMALL, "method.bn_weight=0"])
    result = run(settings, "local", tmp_path / "out")
    assert result["growth"]["run"] == "out-first"
    assert not result["growth"]["weights_copied"]  # the first was a perceptron
    assert record(tmp_path / "out-first")["seed"] == 3
    before = (tmp_path / "out-first" / "result.json").stat().st_mtime_ns
    again = after_first_run(settings, "local", tmp_path / "out", 0.0)
    assert again.grow.run == str(tmp_path / "out-first")
    assert (tmp_path / "out-first" / "result.json").stat().st_mtime_ns == before


def test_a_comparison_runs_both_phases_and_knows_them_again(tmp_path: Path) -> None:
    names, small = [two_phases(tmp_path)], [*SMALL[:-1], "method.bn_weight=0"]
    (row,) = compare(names, 1, "local", tmp_path / "out", small)
    before = (row.folders[0] / "result.json").stat().st_mtime_ns
    (again,) = compare(names, 1, "local", tmp_path / "out", small)
    assert (again.folders[0] / "result.json").stat().st_mtime_ns == before
    with pytest.raises(SettingsError, match=r"run of other settings \(in student"):
        compare(names, 1, "local", tmp_path / "out", [*small, "student.steps=3"])


def test_an_interrupted_first_run_of_other_settings_is_not_gone_on_with(tmp_path: Path) -> None:
    first = load_experiment("digits-grow-first", ["seed=1", "institutions.epochs=1"])
    Checkpoint.begin(tmp_path / "out-first", first, "local", 60.0).close()
    settings = load_experiment("digits-grow", [*SMALL, "seed=2"])
    with pytest.raises(SettingsError, match="out-first holds a run of other settings"):
        after_first_run(settings, "local", tmp_path / "out", 0.0)


def answer(request: Ask | PullBack) -> Reply:
    return Reply({Signal.LOGITS: request.images.flatten(1)[:, :3].half()})


def test_a_deployment_goes_on_with_a_student(first: Path) -> None:
    """Over gRPC, with a new institution of the classes 4, 5 and 6; one of these is known before."""
    card = Card("new", 3, (1, 8, 8), frozenset({Signal.LOGITS}), class_names=("4", "5", "6"))
    words = ("digits-grow", "--grow", str(first), "--insecure", "--institutions", "1")
    overrides = [word for each in SMALL for word in ("--set", each)]
    with running_server(first.parent, "run", *words, "--out", "deployed", *overrides) as server:
        token = server.wait_for_line(r"the token of this run is (\S+)")
        agent = Agent(server.wait_for_line(r"may dial (\S+)"), token, card, answer)
        thread = threading.Thread(target=agent.serve)
        thread.start()
        assert server.end() == 0, server.errors
        agent.close()
        thread.join(SOON)
    result = record(first.parent / "deployed")
    assert result["classes"] == list("0123456")
    assert [(t["name"], t["samples_asked"]) for t in result["teachers"]] == [("new", 96)]
    assert [each["samples_asked"] for each in result["growth"]["left"]] == [0, 0]
    assert result["growth"]["new_classes"] == ["5", "6"]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["institutions.present=[0, 1]"], "bring no new class"),
        (["institutions.data=table:breast-cancer", "institutions.labels=[]"], "rows of a table"),
        (["student.model=nonsense"], "unknown model"),
        (["institutions.present=[2, 9]"], "each once, from 0 to 3"),
    ],
)
def test_what_does_not_fit_is_refused_before_a_folder_is_made(
    first: Path, overrides: list[str], words: str
) -> None:
    folder = first.parent / "refused"
    with pytest.raises(FedkdError, match=words):
        run(grown_from(experiment("digits-grow", *overrides), first), "local", folder)
    assert not folder.exists()


def test_an_earlier_run_has_to_be_finished_and_to_have_a_student(
    first: Path, tmp_path: Path
) -> None:
    def refused(folder: Path) -> str:
        with pytest.raises(DataError) as error:
            run(grown_from(experiment("digits-grow"), folder), "local", tmp_path / "out")
        assert not (tmp_path / "out").exists()
        return str(error.value)

    assert "no such folder" in refused(tmp_path / "nowhere")
    other = tmp_path / "other"
    other.mkdir()
    assert "name another folder" in refused(other)
    (other / "experiment.json").write_text("{}")
    assert "is not finished; resume it first" in refused(other)
    (other / "result.json").write_bytes((first / "result.json").read_bytes())
    assert "left no student.safetensors" in refused(other)
    (other / "student.safetensors").write_bytes(b"nothing")
    assert "cannot be read" in refused(other)


def test_a_method_of_growth_needs_an_earlier_student() -> None:
    settings = experiment("digits-grow").model_copy(update={"grow": Grow()})
    with pytest.raises(SettingsError, match="--grow RUN"):
        run(settings, "local", None)


def test_names_of_classes_that_differ_by_case_are_refused() -> None:
    old = Card("earlier student", 1, (1, 8, 8), frozenset(), class_names=("Cat",))
    with pytest.raises(SettingsError, match="has a class 'cat', and the earlier student has 'Cat'"):
        check_growth(old, [Card("x", 1, (1, 8, 8), frozenset(), class_names=("cat",))])
    with pytest.raises(SettingsError, match="give it another name"):
        check_growth(old, [Card("earlier student", 1, (1, 8, 8), frozenset())])
