"""A strike is on the disk before anybody hears of it, and no later life forgets it."""

import os
import resource
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from fedkd.client.sessions.agent import Agent
from fedkd.errors import QuorumLost
from fedkd.experiment import load
from fedkd.loop import Plan
from fedkd.methods import cudfkd
from fedkd.procedural import prior
from fedkd.server.coordinator import Coordinator, Ingredients
from fedkd.server.hub.bans import Bans, BanReason
from fedkd.server.hub.hub import Hub
from fedkd.server.hub.participant_list import ParticipantList
from fedkd.server.run.checkpoint import Checkpoint
from tests.support.hub_clients import QUICK, SOON, TOKEN, Raw, agents, card, hello, truth, until

NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)


@given(struck=st.dictionaries(NAMES, st.text(max_size=20), min_size=1, max_size=4), data=st.data())
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_torn_line_spoils_no_other(
    tmp_path: Path, struck: dict[str, str], data: st.DataObject
) -> None:
    path = tmp_path / "struck"
    path.unlink(missing_ok=True)
    bans, sizes = Bans(path), list[int]()
    for name, why in struck.items():
        bans.add(name, BanReason(why))
        sizes.append(path.stat().st_size)
    cut = data.draw(st.integers(0, sizes[-1]))
    os.truncate(path, cut)
    whole = list(struck.items())[: sum(size <= cut for size in sizes)]
    left = Bans(path)
    assert [(n, left.reason(n)) for n in struck if n in left] == whole
    left.add("and another", BanReason("later"))
    again = Bans(path)
    assert [(n, again.reason(n)) for n in struck if n in again] == whole
    assert again.reason("and another") == "later"
    assert len(again) == len(whole) + 1


def test_a_strike_that_cannot_be_written_holds_while_the_process_lives(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bans = Bans(tmp_path / "struck")
    bans.add("north", BanReason("garbage"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "struck").stat().st_size + 5, hard))
    try:
        bans.add("south", BanReason("garbage"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "south" in bans
    assert "a resumed run will not know of it" in caplog.text
    bans.add("west", BanReason("garbage"))  # there is room again, after half a line
    again = Bans(tmp_path / "struck")
    assert [name in again for name in ("north", "south", "west")] == [True, False, True]


def test_whoever_hears_that_it_is_struck_off_is_on_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "struck"
    with Hub(TOKEN, bans=Bans(path)) as hub:
        for number in range(10):
            rude = Raw(hub)
            rude.enter(f"rude-{number}")
            rude.say(b"\xff" * 40)
            rude.hear()  # why: the Close comes before the status
            assert f"rude-{number}" in Bans(path)
            rude.close()


def test_a_strike_outlives_the_question_that_lost_its_quorum(tmp_path: Path) -> None:
    def parts(checkpoint: Checkpoint) -> Ingredients:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            student = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
        plan = Plan(budget=12 * 8, batch=8, steps=24)
        return Ingredients(student, cudfkd(), plan, {"pink": prior("pink")}, 0, 2, checkpoint)

    path = tmp_path / "run"
    first = Checkpoint.begin(path, load("digits"), "hub", 0.0)
    with Hub(TOKEN, bans=first.bans) as hub, agents(hub, north=truth):
        rude = Raw(hub)
        rude.enter("rude")
        run = parts(first)
        participants = ParticipantList(hub, run, hub.wait_for(2, SOON), SOON)
        rude.say(b"\xff" * 40)
        with pytest.raises(QuorumLost, match="1 of 2 institutions answered"):
            Coordinator(run, participants.cards, participants.answer).finish()
        rude.close()
    first.close()
    assert first.questions == 0, "the question was never kept"

    second = Checkpoint.resume(path)
    with Hub(TOKEN, known=second.known, bans=second.bans) as hub:
        again = Raw(hub)
        again.say(hello("rude"))
        code, why = again.status()
        assert (code, why[:20]) == ("PERMISSION_DENIED", "banned from this run:")
        again.close()
        late = Agent(hub.address, TOKEN, card("south"), truth, patience=QUICK)
        thread = threading.Thread(target=late.serve)
        thread.start()
        with agents(hub, north=truth):
            until(lambda: len(hub.cards) == 2)
            run = parts(second)
            participants = ParticipantList(hub, run, second.cards, SOON)
            coordinator = Coordinator(run, participants.cards, participants.answer)
            participants.cards = coordinator.cards
            coordinator.finish()
        assert second.questions == 12
        late.close()
        thread.join(SOON)
    second.close()
