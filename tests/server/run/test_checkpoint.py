"""A run that dies at any moment ends as one that does not, and asks nothing twice."""

import json
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from fedkd.core.checkpoint_state import State, read, write
from fedkd.errors import DataError, FedkdError, SettingsError
from fedkd.experiment import parse_experiment
from fedkd.loop import Distilled, Plan, Progress
from fedkd.methods import cudfkd
from fedkd.models import InProcess
from fedkd.procedural import build_priors
from fedkd.protocol import Answers, Refusal, Request, digest
from fedkd.server.coordinator import Coordinator, Ingredients
from fedkd.server.hub.bans import BanReason
from fedkd.server.report.records.loop_events import loop_events
from fedkd.server.run.checkpoint import Checkpoint
from fedkd.server.run.run_recorder import RunRecorder

SHAPE, CLASSES = (1, 4, 4), 3
EXPERIMENT = parse_experiment({"name": "small"})
METHOD = cudfkd("pull_back", bn_weight=0.0, latent=8, warm_up=0.2, generated=0.7, evolved=0.4)
PLAN = Plan(budget=120, batch=12, steps=24, student_batch=8)


def network(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, CLASSES))


TEACHERS = InProcess({n: network(i) for i, n in enumerate("abc")}, SHAPE, CLASSES)


class Death(BaseException):
    """Of the process; nobody expects it."""


class Lives:
    """One run in a folder, in as many lives as it takes."""

    def __init__(self, folder: Path, every: float = 1e-9, record: bool = False) -> None:
        self.folder, self.every, self.record = folder, every, record
        self.questions: list[bytes] = []
        self.told = 0
        self.checkpoint: Checkpoint | None = None

    def live(self, dies: Callable[["Lives"], bool] = lambda lives: False) -> Distilled:
        """Begin or go on; ``dies`` is looked at before and after each question and each event."""
        if (self.folder / "experiment.json").exists():
            checkpoint = Checkpoint.resume(self.folder)
        else:
            checkpoint = Checkpoint.begin(self.folder, EXPERIMENT, "local", self.every, self.record)
        self.checkpoint = checkpoint
        recorder = RunRecorder(
            *(self.folder, EXPERIMENT, "local", lambda student: {"accuracy": 0.5}),
            checkpoint=checkpoint,
        )
        here = dict.fromkeys("abc", 0)
        checkpoint.current_counts = lambda: {name: {"asked": count} for name, count in here.items()}

        def mortal() -> None:
            if dies(self):
                raise Death

        def answer(request: Request) -> tuple[Answers, dict[str, Refusal | str]]:
            self.questions.append(digest(request))
            mortal()
            answers = dict(TEACHERS.answer(request))
            # Every institution sleeps through some questions, the same ones in every life.
            late = "abc"[digest(request)[0] % 3]
            answers.pop(late, None)
            for name in answers:
                here[name] += 1
            return answers, {late: "late"}

        def watch(progress: Progress) -> None:
            self.told += 1
            mortal()
            recorder(progress)

        parts = Ingredients(
            network(9), METHOD, PLAN, build_priors("pink", "noise"), 4, 1, checkpoint
        )
        coordinator = Coordinator(parts, TEACHERS.cards, answer, watch)
        try:
            recorder.student = parts.student
            return coordinator.finish()
        finally:
            if coordinator._road is not None:  # what was on its way has arrived, and is counted
                coordinator._road.shutdown()
            checkpoint.close()

    def end(self) -> tuple[dict[str, torch.Tensor], list[Any], dict[str, dict[str, int]]]:
        """What comes of the run if nothing more happens: student, events, counts."""
        student = self.live().student.state_dict()
        assert self.checkpoint is not None
        return student, loop_events(self.folder), self.checkpoint.total_counts()


@pytest.fixture(scope="module", autouse=True)
def at_every_rest() -> Iterator[None]:
    """States are as near to one another as `every` says, however long they take."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedkd.server.run.checkpoint.MIN_SPACING", 0)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Lives:
    """A run that did not die."""
    lives = Lives(tmp_path_factory.mktemp("whole") / "run")
    lives.outcome = lives.end()  # type: ignore[attr-defined]
    return lives


def same(one: Lives, other: Lives, of_one: tuple, of_other: tuple) -> None:  # type: ignore[type-arg]
    assert of_one[0].keys() == of_other[0].keys()
    assert all(torch.equal(value, of_other[0][name]) for name, value in of_one[0].items())
    assert of_one[1:] == of_other[1:]


@given(
    deaths=st.lists(st.integers(1, 60), min_size=1, max_size=5),
    every=st.sampled_from([0.0, 1e-9, 0.02]),
    record=st.booleans(),
)
@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_whoever_dies_ends_the_same_and_asks_again_only_what_was_on_its_way(
    whole: Lives,
    tmp_path_factory: pytest.TempPathFactory,
    deaths: list[int],
    every: float,
    record: bool,
) -> None:
    lives = Lives(tmp_path_factory.mktemp("mortal") / "run", every, record)
    on_their_way = 0
    for moments in deaths:
        left = iter(range(moments))
        before = len(lives.questions)
        try:
            lives.live(lambda lives: next(left, None) is None)  # noqa: B023
        except Death:
            kept = lives.checkpoint.questions  # type: ignore[union-attr]
            on_their_way = len(lives.questions) - kept
            assert len(lives.questions) - before <= moments + 1
    outcome = lives.end()
    same(lives, whole, outcome, whole.outcome)  # type: ignore[attr-defined]
    assert set(lives.questions) == set(whole.questions)
    again = len(lives.questions) - len(whole.questions)
    assert again == on_their_way <= len(deaths)
    once_each = list(dict.fromkeys(lives.questions))
    assert once_each == whole.questions


def test_the_record_of_a_resumed_run_is_whole(whole: Lives, tmp_path: Path) -> None:
    lives = Lives(tmp_path / "run", record=True)
    with pytest.raises(Death):
        lives.live(lambda lives: len(lives.questions) == 7)
    lives.live()
    size = (lives.folder / "replies.bin").stat().st_size
    other = Lives(tmp_path / "other", record=True)
    other.live()
    assert abs((other.folder / "replies.bin").stat().st_size - size) < 200  # seconds differ
    manifest = json.loads((lives.folder / "experiment.json").read_text())
    assert manifest["resumed"] == 1


# --- a disk that is full


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """A real limit: the system refuses what would make a file longer (EFBIG)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_state_that_cannot_be_written_warns_and_the_run_goes_on(
    whole: Lives, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lives = Lives(tmp_path / "run")
    state = lives.folder / "checkpoint" / "state.safetensors"
    with pytest.raises(Death):
        lives.live(lambda lives: len(lives.questions) == 5)
    before = state.read_bytes()
    with files_of_at_most(len(before) - 1024):  # lengths of numbers in its header differ
        with pytest.raises(Death):
            lives.live(lambda lives: len(lives.questions) == 9)
        assert state.read_bytes() == before, "the one before stands"
    said = capsys.readouterr().err.splitlines()
    assert said
    assert all("no checkpoint could be written" in line for line in said)
    events = [json.loads(line) for line in (lives.folder / "events.jsonl").open()]
    assert "warned" in {event["kind"] for event in events}
    assert all(abs(event["time"] - time.time()) < 600 for event in events)
    outcome = lives.end()
    same(lives, whole, outcome, whole.outcome)  # type: ignore[attr-defined]
    assert not list(lives.folder.glob("**/.*"))


def test_a_journal_that_cannot_be_written_stops_the_run_until_there_is_room(
    whole: Lives, tmp_path: Path
) -> None:
    lives = Lives(tmp_path / "run", every=0.0)
    with files_of_at_most(9_000), pytest.raises(DataError, match="make room there") as caught:
        lives.live()
    assert "\n" not in str(caught.value)
    assert "replies.bin" in str(caught.value)
    asked = len(lives.questions)
    assert 1 < asked < len(whole.questions)
    outcome = lives.end()
    same(lives, whole, outcome, whole.outcome)  # type: ignore[attr-defined]
    assert len(lives.questions) == len(whole.questions) + 1, "one was answered and not kept"


# --- folders that cannot be gone on with


def cut_short(folder: Path) -> Lives:
    lives = Lives(folder)
    with pytest.raises(Death):
        lives.live(lambda lives: len(lives.questions) == 6)
    return lives


def edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_a_folder_that_is_no_run_to_resume_is_refused_in_one_line(tmp_path: Path) -> None:
    def complaint(folder: Path) -> str:
        with pytest.raises(FedkdError) as caught:
            Checkpoint.resume(folder)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "no run was begun there" in complaint(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "no run was begun there" in complaint(tmp_path / "empty")

    lives = cut_short(tmp_path / "run")
    held = Checkpoint.resume(lives.folder)
    assert "another process" in complaint(lives.folder)
    held.close()
    (lives.folder / "result.json").write_text("{}")
    assert "is finished" in complaint(lives.folder)
    (lives.folder / "result.json").unlink()
    edit(lives.folder / "experiment.json", engine=None)
    assert "engine" in complaint(lives.folder)

    lives = cut_short(tmp_path / "second")
    (lives.folder / "checkpoint" / "replies.bin").write_bytes(b"not one")
    assert "no recording" in complaint(lives.folder)
    (lives.folder / "checkpoint" / "state.safetensors").write_bytes(b"not one")
    assert "no state of a run" in complaint(lives.folder)


def test_other_versions_are_told_and_other_institutions_refused(tmp_path: Path) -> None:
    lives = cut_short(tmp_path / "run")
    manifest = lives.folder / "experiment.json"
    versions = json.loads(manifest.read_text())["versions"]
    edit(manifest, versions={**versions, "torch": "1.0"})
    again = Checkpoint.resume(lives.folder)
    assert "begun with torch 1.0, now" in again.manifest.warning
    cards = list(TEACHERS.cards)
    with pytest.raises(DataError, match="b is not as it was"):
        again.check_participants([cards[0], replace(cards[1], pull_back=False), cards[2]])
    assert again.check_participants(cards[:2]) == cards, "who is away is asked when it is back"
    again.close()


def test_what_could_not_begin_leaves_its_folder_free(tmp_path: Path) -> None:
    checkpoint = Checkpoint.begin(tmp_path / "run", EXPERIMENT, "local", 60.0)
    with pytest.raises(SettingsError, match="another process"):
        Checkpoint.resume(tmp_path / "run")
    checkpoint.discard()
    assert list(tmp_path.iterdir()) == []
    Checkpoint.begin(tmp_path / "run", EXPERIMENT, "local", 60.0).close()


def test_whoever_was_banned_stays_so_when_the_run_is_resumed(tmp_path: Path) -> None:
    lives = cut_short(tmp_path / "run")
    checkpoint = Checkpoint.resume(lives.folder)
    checkpoint.bans.add("b", BanReason("garbage"))  # and nothing is kept after that
    checkpoint.close()
    again = Checkpoint.resume(lives.folder)
    assert again.bans.reason("b") == "garbage"
    assert again.bans.reason("c") is None
    again.close()


def test_bans_and_names_of_earlier_releases_are_read(tmp_path: Path) -> None:
    lives = cut_short(tmp_path / "run")
    old = lives.folder / "checkpoint" / "struck"
    old.write_text('\n{"name": "b", "why": "garbage"}')
    state = lives.folder / "checkpoint" / "state.safetensors"
    stored = read(state)
    own = dict(stored.numbers["notes"]["own"])
    own["struck"] = [*own.pop("banned"), "b"]
    notes = {**stored.numbers["notes"], "own": own}
    write(State(stored.tensors, {**stored.numbers, "notes": notes}), state)
    again = Checkpoint.resume(lives.folder)
    assert again.bans.reason("b") == "garbage"
    assert not old.exists()
    assert again.notes["own"]["banned"] == ["b"]
    again.close()
