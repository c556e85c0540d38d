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

from fedkd.client.agent import Agent
from fedkd.errors import QuorumLost
from fedkd.experiment.experiment import load
from fedkd.loop import Plan
from fedkd.methods import cudfkd
from fedkd.procedural.priors import prior
from fedkd.server.coordinator import Coordinator, Ingredients
from fedkd.server.hub.bans import Strikes, Struck
from fedkd.server.hub.hub import Hub
from fedkd.server.hub.participant_list import Audience
from fedkd.server.run.checkpoint import Checkpoint
from tests.support.dialling import QUICK, SOON, TOKEN, Raw, agents, card, hello, truth, until

NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)


@given(struck=st.dictionaries(NAMES, st.text(max_size=20), min_size=1, max_size=4), data=st.data())
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_torn_line_spoils_no_other(
    tmp_path: Path, struck: dict[str, str], data: st.DataObject
) -> None:
    path = tmp_path / "struck"
    path.unlink(missing_ok=True)
    strikes, sizes = Strikes(path), list[int]()
    for name, why in struck.items():
        strikes.add(name, Struck(why))
        sizes.append(path.stat().st_size)
    cut = data.draw(st.integers(0, sizes[-1]))
    os.truncate(path, cut)
    whole = list(struck.items())[: sum(size <= cut for size in sizes)]
    left = Strikes(path)
    assert [(n, left.why(n)) for n in struck if n in left] == whole
    left.add("and another", Struck("later"))
    again = Strikes(path)
    assert [(n, again.why(n)) for n in struck if n in again] == whole
    assert again.why("and another") == "later"
    assert len(again) == len(whole) + 1


def test_a_strike_that_cannot_be_written_holds_while_the_process_lives(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    strikes = Strikes(tmp_path / "struck")
    strikes.add("north", Struck("garbage"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "struck").stat().st_size + 5, hard))
    try:
        strikes.add("south", Struck("garbage"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "south" in strikes
    assert "a resumed run will not know of it" in caplog.text
    strikes.add("west", Struck("garbage"))  # there is room again, after half a line
    again = Strikes(tmp_path / "struck")
    assert [name in again for name in ("north", "south", "west")] == [True, False, True]


def test_whoever_hears_that_it_is_struck_off_is_on_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "struck"
    with Hub(TOKEN, strikes=Strikes(path)) as hub:
        for number in range(10):
            rude = Raw(hub)
            rude.enter(f"rude-{number}")
            rude.say(b"\xff" * 40)
            rude.hear()  # why: the Close comes before the status
            assert f"rude-{number}" in Strikes(path)
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
    with Hub(TOKEN, strikes=first.strikes) as hub, agents(hub, north=truth):
        rude = Raw(hub)
        rude.enter("rude")
        run = parts(first)
        audience = Audience(hub, run, hub.wait_for(2, SOON), SOON)
        rude.say(b"\xff" * 40)
        with pytest.raises(QuorumLost, match="1 of 2 institutions answered"):
            Coordinator(run, audience.cards, audience.answer).finish()
        rude.close()
    first.close()
    assert first.questions == 0, "the question was never kept"

    second = Checkpoint.resume(path)
    with Hub(TOKEN, known=second.known, strikes=second.strikes) as hub:
        again = Raw(hub)
        again.say(hello("rude"))
        code, why = again.status()
        assert (code, why[:20]) == ("PERMISSION_DENIED", "struck off this run:")
        again.close()
        late = Agent(hub.address, TOKEN, card("south"), truth, patience=QUICK)
        thread = threading.Thread(target=late.serve)
        thread.start()
        with agents(hub, north=truth):
            until(lambda: len(hub.cards) == 2)
            run = parts(second)
            audience = Audience(hub, run, second.cards, SOON)
            coordinator = Coordinator(run, audience.cards, audience.answer)
            audience.cards = coordinator.cards
            coordinator.finish()
        assert second.questions == 12
        late.close()
        thread.join(SOON)
    second.close()
