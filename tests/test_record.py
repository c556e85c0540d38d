"""A recording answers as the run did, and nothing else."""

from pathlib import Path

import pytest
import torch

from fedkd.errors import DataError
from fedkd.in_process import InProcess
from fedkd.loop import Plan
from fedkd.methods import cudfkd
from fedkd.models import build
from fedkd.priors import priors
from fedkd.wire.record import Recorder, Replay
from server.coordinator import Coordinator, Ingredients

SHAPE = (1, 8, 8)


def parts(recorder: Recorder | None = None, seed: int = 3) -> Ingredients:
    """A short run of exact CuDFKD, which asks and pulls back."""
    method = cudfkd("pull_back", latent=8, warm_up=0.3, adversarial_stop=5.0)
    plan = Plan(budget=96, batch=16, steps=12, student_batch=8)
    return Ingredients(build("cnn", 10, SHAPE, 0), method, plan, priors(), seed, 1, recorder)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    """Replies of a run, and the student that it made."""
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("run") / "replies.bin"
    teachers = InProcess({n: build("cnn", 10, SHAPE, i) for i, n in enumerate("ab")}, SHAPE, 10)
    recorder = Recorder(path)
    run = Coordinator(parts(recorder), teachers.cards, lambda r: (teachers.answer(r), {}))
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
    with pytest.raises(DataError, match="recorded for other questions"):
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
