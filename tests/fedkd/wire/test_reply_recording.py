"""A recording answers as the run did, and nothing else."""

import os
import stat
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedkd.errors import DataError
from fedkd.loop import Plan
from fedkd.methods import cudfkd
from fedkd.models import InProcess, build_network
from fedkd.procedural import build_priors
from fedkd.protocol import Answers, Ask, Refusal, Request
from fedkd.server.coordinator import Coordinator, Ingredients
from fedkd.wire import Replay, ReplyRecorder

SHAPE = (1, 8, 8)


def parts(seed: int = 3) -> Ingredients:
    """A short run of exact CuDFKD, which asks and pulls back."""
    method = cudfkd("pull_back", latent=8, warm_up=0.3, adversarial_stop=5.0)
    plan = Plan(budget=96, batch=16, steps=12, student_batch=8)
    return Ingredients(build_network("cnn", 10, SHAPE, 0), method, plan, build_priors(), seed)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    """Replies of a run, and the student that it made."""
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("run") / "replies.bin"
    teachers = InProcess(
        {n: build_network("cnn", 10, SHAPE, i) for i, n in enumerate("ab")}, SHAPE, 10
    )
    recorder = ReplyRecorder(path)
    recorder.start(teachers.cards)

    def answer(request: Request) -> tuple[Answers, dict[str, Refusal | str]]:
        answers = teachers.answer(request)
        recorder.append(request, answers, {"c": ("lost", "asleep")}, {"number": recorder.queries})
        return answers, {}

    run = Coordinator(parts(), teachers.cards, answer)
    student = run.finish().student.state_dict()
    recorder.close()
    return path, student


def test_the_same_replies_make_the_same_student_bit_for_bit(
    recorded: tuple[Path, dict[str, torch.Tensor]],
) -> None:
    path, student = recorded
    replay = Replay(path)
    again = Coordinator(parts(), replay.cards, lambda r: (replay.answer(r), {})).finish()
    weights = again.student.state_dict()
    assert again.pulled_back > 0
    assert all(torch.equal(student[name], weights[name]) for name in student)


def test_another_seed_asks_other_questions_and_is_told_so(
    recorded: tuple[Path, dict[str, torch.Tensor]],
) -> None:
    replay = Replay(recorded[0])
    with pytest.raises(DataError, match="recorded for other queries"):
        Coordinator(parts(seed=4), replay.cards, lambda r: (replay.answer(r), {})).finish()


@pytest.mark.parametrize("cut", [1, 9, 200, 5000])
def test_a_recording_that_was_cut_short_says_so(
    recorded: tuple[Path, dict[str, torch.Tensor]], cut: int, tmp_path: Path
) -> None:
    short = tmp_path / "replies.bin"
    short.write_bytes(recorded[0].read_bytes()[:-cut])

    def run() -> None:
        replay = Replay(short)
        Coordinator(parts(), replay.cards, lambda r: (replay.answer(r), {})).finish()

    with pytest.raises(DataError, match="record it again"):
        run()


def test_what_is_no_recording_is_refused(tmp_path: Path) -> None:
    (tmp_path / "note").write_text("not one")
    with pytest.raises(DataError, match="recording"):
        Replay(tmp_path / "note")
    with pytest.raises(DataError, match="cannot read"):
        Replay(tmp_path / "nothing")


@pytest.mark.parametrize("spoil", ["cut", "garbled", "zeros", "length"])
@given(data=st.data())
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_torn_recording_is_gone_on_with_after_its_last_whole_question(
    recorded: tuple[Path, dict[str, torch.Tensor]],
    tmp_path: Path,
    spoil: str,
    data: st.DataObject,
) -> None:
    whole = Replay(recorded[0])
    ends = [whole.valid_bytes]
    while whole.skip():
        ends.append(whole.valid_bytes)
    content = recorded[0].read_bytes()
    at = data.draw(st.integers(ends[0], len(content) - 1))
    torn = {
        "cut": content[:at],
        "garbled": content[:at] + bytes([content[at] ^ 255]) + content[at + 1 :],
        "zeros": content[:at] + bytes(300),
        "length": content[:at] + b"\xff" * 40,
    }[spoil]
    file = tmp_path / "replies.bin"
    file.write_bytes(torn)
    recorder = ReplyRecorder(file)
    replay = recorder.resume()
    good = max(number for number, end in enumerate(ends) if end <= at)
    assert recorder.queries == good
    assert file.stat().st_size == ends[good]
    if good:
        assert recorder.note == {"number": good - 1}
    request = Ask(torch.zeros(1, *SHAPE, dtype=torch.uint8))
    recorder.append(request, {}, {"a": ("lost", "late")}, {"number": "new"})
    recorder.close()
    for _ in range(good):
        assert replay.skip()
    again = Replay(file)
    for _ in range(good):
        assert again.skip()
    heard = again.outcome(request)
    assert heard is not None
    assert (dict(heard.answers), heard.missing) == ({}, {"a": ("lost", "late")})
    assert not again.skip()


def test_a_recording_that_begins_anew_counts_on(
    recorded: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    file = tmp_path / "replies.bin"
    file.write_bytes(recorded[0].read_bytes())
    recorder = ReplyRecorder(file, durable=True)
    cards = recorder.resume().cards
    count = recorder.queries
    recorder.start(cards, count)
    request = Ask(torch.zeros(1, *SHAPE, dtype=torch.uint8))
    recorder.append(request, {})
    recorder.close()
    replay = Replay(file)
    assert (replay.first, replay.cards) == (count, cards)
    assert replay.answer(request) == {}
    assert [path.name for path in tmp_path.iterdir()] == ["replies.bin"]


def test_after_a_folder_that_cannot_be_flushed_replies_go_to_the_new_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, request = tmp_path / "replies.bin", Ask(torch.zeros(1, *SHAPE, dtype=torch.uint8))
    recorder, flush = ReplyRecorder(file, durable=True), os.fsync
    recorder.start([])
    recorder.append(request, {})

    def no_folders(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(5, "Input/output error")
        flush(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", no_folders)
        with pytest.raises(OSError, match="Input/output"):
            recorder.start([], recorder.queries)
    assert recorder.queries == 1
    recorder.append(request, {}, {"a": ("lost", "late")})
    recorder.close()
    outcome = Replay(file).outcome(request)
    assert outcome is not None
    assert outcome.missing == {"a": ("lost", "late")}
