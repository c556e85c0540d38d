"""A ban is on the disk before anybody hears of it, and no later life forgets it."""

import os
import resource
import sys
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from fedkd.client.sessions.agent import Agent
from fedkd.errors import QuorumLost
from fedkd.experiment import load_experiment
from fedkd.loop import Plan
from fedkd.methods import cudfkd
from fedkd.procedural import build_prior
from fedkd.server.coordinator import Coordinator, Ingredients
from fedkd.server.hub.bans import BanReason, Bans, Exclusion
from fedkd.server.hub.hub import Hub
from fedkd.server.remote_institutions import RemoteInstitutions
from fedkd.server.run.checkpoint import Checkpoint
from tests.support.hub_clients import (
    QUICK,
    SOON,
    TOKEN,
    RawClient,
    agents,
    card,
    hello,
    honest_answer,
    wait_until,
)

NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)


@given(banned=st.dictionaries(NAMES, st.text(max_size=20), min_size=1, max_size=4), data=st.data())
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_torn_line_spoils_no_other(
    tmp_path: Path, banned: dict[str, str], data: st.DataObject
) -> None:
    path = tmp_path / "bans.jsonl"
    path.unlink(missing_ok=True)
    bans, sizes = Bans(path), list[int]()
    for name, why in banned.items():
        bans.add(name, BanReason(why))
        sizes.append(path.stat().st_size)
    cut = data.draw(st.integers(0, sizes[-1]))
    os.truncate(path, cut)
    whole = list(banned.items())[: sum(size <= cut for size in sizes)]
    left = Bans(path)
    assert [(n, left.reason(n)) for n in banned if n in left] == whole
    left.add("and another", BanReason("later"))
    again = Bans(path)
    assert [(n, again.reason(n)) for n in banned if n in again] == whole
    assert again.reason("and another") == "later"
    assert len(again) == len(whole) + 1


def test_a_ban_that_cannot_be_written_holds_while_the_process_lives(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bans = Bans(tmp_path / "bans.jsonl")
    bans.add("north", BanReason("garbage"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "bans.jsonl").stat().st_size + 5, hard))
    try:
        bans.add("south", BanReason("garbage"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "south" in bans
    assert "a resumed run will not know of it" in caplog.text
    bans.add("west", BanReason("garbage"))  # there is room again, after half a line
    again = Bans(tmp_path / "bans.jsonl")
    assert [name in again for name in ("north", "south", "west")] == [True, False, True]


def test_an_exclusion_that_could_not_be_read_at_once_is_read_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ours, operators = (Bans(tmp_path / "bans.jsonl") for _ in range(2))
    operators.add("north", Exclusion("the operator said so"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        assert ours.refresh() == []
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert "new bans cannot be read" in caplog.text
    assert ours.refresh() == ["north"]
    assert ours.refresh() == []


def test_bans_are_refreshed_while_another_thread_adds() -> None:
    bans, pause = Bans(), sys.getswitchinterval()
    adding = threading.Thread(
        target=lambda: [bans.add(str(number), Exclusion()) for number in range(20_000)]
    )
    sys.setswitchinterval(1e-6)
    try:
        adding.start()
        while adding.is_alive():
            bans.refresh()
    finally:
        sys.setswitchinterval(pause)
        adding.join(SOON)
    assert len(bans) == 20_000


def test_a_ban_is_on_the_disk_before_the_institution_is_informed(tmp_path: Path) -> None:
    path = tmp_path / "bans.jsonl"
    with Hub(TOKEN, bans=Bans(path)) as hub:
        for number in range(10):
            rude = RawClient(hub)
            rude.join(f"rude-{number}")
            rude.send(b"\xff" * 40)
            rude.receive()  # why: the Close comes before the status
            assert f"rude-{number}" in Bans(path)
            rude.close()


def test_a_ban_outlives_the_question_that_lost_its_quorum(tmp_path: Path) -> None:
    def parts(checkpoint: Checkpoint) -> Ingredients:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            student = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
        plan = Plan(budget=12 * 8, batch=8, steps=24)
        return Ingredients(student, cudfkd(), plan, {"pink": build_prior("pink")}, 0, 2, checkpoint)

    path = tmp_path / "run"
    first = Checkpoint.begin(path, load_experiment("digits"), "hub", 0.0)
    with Hub(TOKEN, bans=first.bans) as hub, agents(hub, north=honest_answer):
        rude = RawClient(hub)
        rude.join("rude")
        run = parts(first)
        participants = RemoteInstitutions(hub, run, hub.wait_for(2, SOON), SOON)
        rude.send(b"\xff" * 40)
        with pytest.raises(QuorumLost, match="1 of 2 institutions answered"):
            Coordinator(run, participants.cards, participants.answer).finish()
        rude.close()
    first.close()
    assert first.questions == 0, "the question was never kept"

    second = Checkpoint.resume(path)
    with Hub(TOKEN, known=second.known_cards, bans=second.bans) as hub:
        again = RawClient(hub)
        again.send(hello("rude"))
        code, why = again.status()
        assert (code, why[:21]) == ("PERMISSION_DENIED", "banned from this run:")
        again.close()
        late = Agent(hub.address, TOKEN, card("south"), honest_answer, reconnect=QUICK)
        thread = threading.Thread(target=late.serve)
        thread.start()
        with agents(hub, north=honest_answer):
            wait_until(lambda: len(hub.cards) == 2)
            run = parts(second)
            participants = RemoteInstitutions(hub, run, second.cards, SOON)
            coordinator = Coordinator(run, participants.cards, participants.answer)
            participants.cards = coordinator.cards
            coordinator.finish()
        assert second.questions == 12
        late.close()
        thread.join(SOON)
    second.close()
