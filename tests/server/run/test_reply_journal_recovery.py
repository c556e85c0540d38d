"""A recorded card that is out of bounds: said in one line, and the run goes on without it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fedkd.errors import DataError, SettingsError
from fedkd.experiment import parse_experiment
from fedkd.protocol import Ask, Card, Reply, Signal
from fedkd.server.run.checkpoint import Checkpoint
from fedkd.wire import ReplyRecorder

SHAPE = (1, 2, 2)
NORTH, SOUTH = (Card(name, 3, SHAPE, frozenset({Signal.LOGITS})) for name in ("north", "south"))
LIAR = replace(NORTH, name="liar", class_counts=(1, 2, 2**64 - 1))
EXPERIMENT = parse_experiment({"name": "small"})


def question(number: int) -> Ask:
    return Ask(torch.full((1, *SHAPE), number, dtype=torch.uint8))


def reply() -> Reply:
    return Reply({Signal.LOGITS: torch.zeros(1, 3).half()})


@pytest.fixture(autouse=True)
def an_earlier_release(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that did not look at the numbers of a card before it was recorded."""
    monkeypatch.setattr("fedkd.wire.session_messages.card_violation", lambda card: None)


def begun(path: Path, first: list[Card], joins: Card | None = None) -> Path:
    """A run that died after three questions; ``joins`` came with the third."""
    Checkpoint.begin(path, EXPERIMENT, "hub", 0).close()
    recorder = ReplyRecorder(path / "checkpoint" / "replies.bin")
    recorder.start(first)
    for number in range(3):
        joined = [joins] if joins and number == 2 else []
        names = [card.name for card in (*first, *joined)]
        recorder.append(question(number), {name: reply() for name in names}, joined=joined)
    recorder.close()
    return path


def test_a_card_that_joined_late_is_named_and_the_run_goes_on_without_it(tmp_path: Path) -> None:
    path = begun(tmp_path / "run", [NORTH, SOUTH], LIAR)
    with pytest.raises(DataError, match=r"liar has .*18446744073709551615.*--without liar"):
        Checkpoint.resume(path, "hub")
    again = Checkpoint.resume(path, "hub", without=["liar"])
    assert [card.name for card in again.known_cards] == ["north", "south"]
    assert again.questions == 2  # the third was put to the liar too, and is put again
    for number in range(2):
        outcome = again.replayed(question(number))
        assert outcome is not None
        assert outcome.answers.keys() == {"north", "south"}
    assert again.replayed(question(2)) is None
    assert again.bans.reason("liar")
    again.close()
    later = Checkpoint.resume(path, "hub")  # it stays left out
    assert later.manifest.without == ("liar",)
    assert later.taking_part([NORTH, LIAR]) == [NORTH]
    later.close()


class Death(BaseException):
    """Of the process; nobody expects it."""


def test_whoever_is_left_out_is_banned_whenever_the_command_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = begun(tmp_path / "run", [NORTH, SOUTH], LIAR)

    def die(file: Path, content: bytes) -> None:
        raise Death

    with monkeypatch.context() as patch:
        patch.setattr("fedkd.server.run.checkpoint.write_atomic", die)
        with pytest.raises(Death):
            Checkpoint.resume(path, "hub", without=["liar"])
    again = Checkpoint.resume(path, "hub")
    assert again.bans.reason("liar"), "the manifest was written before the ban"
    again.close()
    Checkpoint.resume(path, "hub", without=["liar"]).close()
    (path / "checkpoint" / "bans.jsonl").unlink()  # as where an earlier release was killed
    later = Checkpoint.resume(path, "hub")
    assert later.bans.reason("liar")
    later.close()


def test_without_somebody_who_was_there_from_the_start_a_run_without_state_begins_anew(
    tmp_path: Path,
) -> None:
    path = begun(tmp_path / "run", [NORTH, LIAR])
    with pytest.raises(DataError, match="--without liar"):
        Checkpoint.resume(path, "hub")
    again = Checkpoint.resume(path, "hub", without=["liar"])
    assert (again.questions, again.cards) == (0, [])
    assert again.check_participants([NORTH, LIAR]) == [NORTH]
    again.record_participants([NORTH])
    again.close()
    later = Checkpoint.resume(path, "hub")
    assert list(later.known_cards) == [NORTH]
    later.close()


def test_a_saved_state_goes_on_without_somebody_unless_he_alone_knew_a_class(
    tmp_path: Path,
) -> None:
    from fedkd.core.checkpoint_state import State

    for classes, fits in ((3, True), (4, False)):
        path = tmp_path / f"run-{classes}"
        checkpoint = Checkpoint.begin(path, EXPERIMENT, "hub", 1e-9)
        checkpoint.record_participants([NORTH, replace(SOUTH, classes=classes)])
        answers = {name: reply() for name in ("north", "south")}
        checkpoint.append(question(0), answers, {})
        checkpoint.manifest = checkpoint.manifest.model_copy(update={"every": 1e-9})
        checkpoint._save(State({"x": torch.zeros(1)}, {}), {"asking": True})
        checkpoint.append(question(1), answers, {})
        checkpoint.close()
        if not fits:
            with pytest.raises(SettingsError, match="without south nobody knows 3"):
                Checkpoint.resume(path, "hub", without=["south"])
            continue
        again = Checkpoint.resume(path, "hub", without=["south"])
        assert (again.questions, list(again.known_cards)) == (1, [NORTH])
        again.close()
    assert json.loads((tmp_path / "run-3" / "experiment.json").read_text())["without"] == ["south"]
