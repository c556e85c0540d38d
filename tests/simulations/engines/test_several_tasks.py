# ruff: noqa: E402
"""Several tasks from end to end: resumed, replayed, in both engines and over gRPC, bit for bit."""

import json
import threading
from pathlib import Path

from fedkd.simulations.engines.environment_variables import set_environment_defaults

set_environment_defaults()  # before Flower, Ray and gRPC are imported

import pytest
import torch

import fedkd
from fedkd.errors import NeedsError, SettingsError
from fedkd.experiment import Experiment, load_experiment
from fedkd.models import build_network
from fedkd.protocol import Answers, Refusal, Request
from fedkd.server.report.page import build_report
from fedkd.server.report.records.loop_events import loop_events
from fedkd.simulations import run as runs
from fedkd.simulations.engines.local import LocalInstitutions
from fedkd.simulations.rehearsal.free_ports import free_ports

STUDENT = "student.safetensors"
TASKS = ("hole", "large", "odd")


def small(*changes: str) -> Experiment:
    return load_experiment(
        "digits-tasks",
        [
            *("questions.budget=256", "student.steps=40", "student.model=mlp"),
            *('institutions.models=["mlp"]', "institutions.epochs=4"),
            *changes,
        ],
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the local engine without a stop."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    runs.run(small(), "local", out, record=True)
    return out


def test_scores_are_written_of_each_task_and_of_all(whole: Path) -> None:
    result = json.loads((whole / "result.json").read_text())
    student, ensemble = result["student"], result["ensemble"]
    assert [task["name"] for task in result["task"]["tasks"]] == [*TASKS]
    assert set(student["task_accuracy"]) == {*TASKS}
    assert 0 < student["all_tasks_accuracy"] <= min(student["task_accuracy"].values())
    assert student["all_tasks_accuracy"] < ensemble["all_tasks_accuracy"]
    assert set(student["held_back"]["task_agreement"]) == {*TASKS}
    for teacher, own in zip(result["teachers"], ("odd", "large", "hole"), strict=True):
        assert teacher["all_tasks_accuracy"] is None
        assert teacher["task_accuracy"][own] == teacher["accuracy"] > 0.7
        assert [n for n, a in teacher["task_accuracy"].items() if a is not None] == [own]
        assert teacher["samples_asked"] == 256
    assert result["student"]["recall"].keys() == set(result["classes"])


def test_the_page_and_the_files_know_the_tasks(whole: Path) -> None:
    page = (whole / "report.html").read_text()
    for text in ("All tasks right", "Accuracy of each task", "institution-2", "Tasks and classes"):
        assert text in page
    scores = page[page.index("Scores on the test set") : page.index("Accuracy of each task")]
    assert "not known" not in scores, "who does not label a task has a blank there"
    build_report(whole)
    assert (whole / "report.html").read_text() == page
    card = (whole / "README.md").read_text()
    assert "accuracy of the task hole" in card
    assert "predict_tasks" in card
    loaded = fedkd.load(whole)
    said = loaded.predict_tasks(torch.rand(3, 1, 8, 8))
    assert {name: len(own) for name, own in said.items()} == dict.fromkeys(TASKS, 3)
    assert set(said["odd"]) <= {"even", "odd"}
    with pytest.raises(SettingsError, match="predict_tasks"):
        loaded.predict(torch.rand(3, 1, 8, 8))


def test_a_run_is_replayed(whole: Path, tmp_path: Path) -> None:
    runs.run(small(), "local", tmp_path / "replayed", replay=whole)
    assert loop_events(tmp_path / "replayed") == loop_events(whole) != []


class StopError(Exception):
    """The process ends here."""


def test_a_run_that_was_interrupted_ends_with_the_same_student(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, questions = LocalInstitutions.answer, 0

    def answer(
        self: LocalInstitutions, request: Request
    ) -> tuple[Answers, dict[str, Refusal | str]]:
        nonlocal questions
        questions += 1
        if questions == 3:
            raise StopError
        return plain(self, request)

    out = tmp_path / "interrupted"
    with monkeypatch.context() as patched:
        patched.setattr(LocalInstitutions, "answer", answer)
        with pytest.raises(StopError):
            runs.run(small(), "local", out, checkpoint=0.001)
    assert runs.resume(out)["resumed"] == 1
    assert loop_events(out) == loop_events(whole) != []
    assert (out / STUDENT).read_bytes() == (whole / STUDENT).read_bytes()


def test_engines_make_the_same_student(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedkd.simulations.engines.flower_simulation.WORKERS", 1)
    out = tmp_path / "simulation"
    runs.run(small(), "simulation", out)
    assert (out / STUDENT).read_bytes() == (whole / STUDENT).read_bytes()
    local, simulated = (json.loads((p / "result.json").read_text()) for p in (whole, out))
    for name in ("task", "ensemble"):
        assert simulated[name] == local[name]
    assert simulated["student"]["task_accuracy"] == local["student"]["task_accuracy"]


def test_a_generator_is_trained_on_terms_of_each_task(tmp_path: Path) -> None:
    pulled = small(
        "method.gradient=pull_back",
        "policy.pull_back=true",
        "method.warm_up=0",
        "method.generated=1",
    )
    result = runs.run(pulled, "local", tmp_path / "run")
    assert result["generator_steps"] == 4
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").open()]
    terms = [event["terms"] for event in events if event["kind"] == "generated"]
    assert all({*each} == {"task_one_hot", "task_balance", "task_sparsity"} for each in terms)


def test_a_method_of_one_softmax_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NeedsError, match="dafl is for classes, and institution-0 predicts several"):
        runs.run(small('method={name="dafl"}', "policy.pull_back=true"), "local", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_tasks_called_classes_of_one_are_scored_all_the_same(tmp_path: Path) -> None:
    result = runs.run(small("institutions.tasks_as_classes=true"), "local", tmp_path / "run")
    assert result["task"]["kind"] == "classes"
    assert "hole: has a hole" in result["classes"]
    assert set(result["student"]["task_accuracy"]) == {*TASKS}


def test_institutions_of_different_tasks_over_grpc(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    address = f"127.0.0.1:{port}"
    tasks = {"north": {"odd": ["even", "odd"]}, "south": {"hole": ["open", "closed"]}}
    networks = {  # not in the threads: they would share torch's random numbers
        "north": build_network("mlp", 2, (1, 8, 8), 0),
        "south": build_network("mlp", 2, (1, 8, 8), 1),
    }
    ended: list[str] = []

    def institution(name: str) -> None:
        network = networks[name]
        more = {"samples": 100, "state": tmp_path / name, "shape": (1, 8, 8)}
        ended.append(
            fedkd.serve(network, address, name=name, token="ours", classes=tasks[name], **more)  # type: ignore[arg-type]
        )

    threads = [threading.Thread(target=institution, args=(name,)) for name in tasks]
    for thread in threads:
        thread.start()
    fitted = fedkd.fit(
        "mlp", listen=address, token="ours", institutions=2, budget=64, steps=4, progress=False
    )
    for thread in threads:
        thread.join(30)
    assert ended == ["over"] * 2
    assert fitted.classes == ("hole: closed", "hole: open", "odd: even", "odd: odd")
    here = fedkd.fit(
        "mlp",
        networks,
        shape=(1, 8, 8),
        classes=tasks,
        budget=64,
        steps=4,
        progress=False,
    )
    for name, weight in here.student.state_dict().items():
        assert torch.equal(weight, fitted.student.state_dict()[name])
