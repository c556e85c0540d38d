"""What institutions do to a hub: they are killed, hang, come late, come back, join and leave."""

import queue
import re
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc
from torch import nn

from fedkd.client.sessions.agent import Agent
from fedkd.errors import QuorumLost, SettingsError
from fedkd.experiment import ADAPTIVE, ALL, load_experiment
from fedkd.loop import Plan, Progress
from fedkd.methods import cudfkd
from fedkd.procedural import build_prior
from fedkd.protocol import Ask, Card, PullBack, Reason, Refusal, Reply
from fedkd.server.coordinator import Coordinator, Ingredients
from fedkd.server.hub import linger
from fedkd.server.hub.bans import BanReason
from fedkd.server.hub.hub import Hub
from fedkd.server.hub.participant import MAX_ATTEMPTS
from fedkd.server.hub.participant_session import CONNECTION_LOST
from fedkd.server.hub.prometheus import serve_metrics
from fedkd.server.remote_institutions import RemoteInstitutions
from fedkd.server.report.records.event_schema import parse_event
from fedkd.server.run.checkpoint import Checkpoint
from fedkd.server.run.run_recorder import traffic_of
from fedkd.wire import VERSION, Answer, Close, Hello, Query, Replay, Welcome
from fedkd.wire.grpc_channels import SERVICE, dial, grpc
from tests.support.hub_clients import (
    IMAGES,
    QUICK,
    SOON,
    TOKEN,
    RawClient,
    TcpRelay,
    agents,
    card,
    encode_answer,
    honest_answer,
    names,
    same_request_to_all,
    wait_until,
)

ASK = Ask(IMAGES)
AT_ONCE = 4.0
"""Seconds that nothing takes which does not wait; less than `SOON` by far."""
LATE = r"no answer within ([\d.]+) s after the quorum's"
"""The seconds are adaptive: a machine under load has a slow quorum, and a longer linger."""


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


@pytest.fixture
def came(hub: Hub) -> Iterator[Callable[[str], RawClient]]:
    """Has somebody come in under a name, and leave at the end."""
    there: list[RawClient] = []

    def come(name: str) -> RawClient:
        there.append(RawClient(hub))
        there[-1].join(name)
        return there[-1]

    yield come
    for raw in there:
        raw.close()


Come = Callable[[str], RawClient]


def heard(raw: RawClient) -> Query:
    question = raw.receive()
    assert isinstance(question, Query)
    return question


def answer(raw: RawClient, question: Query) -> None:
    raw.send(Answer(question.id, honest_answer(question.request)))


@dataclass
class Stuck:
    """A teacher that answers when it is told to."""

    begun: queue.SimpleQueue[None] = field(default_factory=queue.SimpleQueue)
    go: threading.Event = field(default_factory=threading.Event)

    def __call__(self, request: Ask | PullBack) -> Reply:
        self.begun.put(None)
        self.go.wait(SOON)
        return honest_answer(request)


# --- killed, and back


def test_a_lost_question_is_put_again_under_its_number(
    hub: Hub, came: Come, pool: ThreadPoolExecutor
) -> None:
    with agents(hub, other=honest_answer):
        first = came("north")
        outcome = pool.submit(hub.ask, dict.fromkeys(("north", "other"), ASK), SOON)
        question = heard(first)
        wait_until(lambda: hub.counters["other"].answers == 1)  # nobody waits for anybody
        first.close()
        wait_until(lambda: hub.counters["north"].end_reason == CONNECTION_LOST)
        again = came("north")
        repeated = heard(again)
        assert repeated.id == question.id
        assert torch.equal(repeated.request.images, IMAGES)
        answer(again, repeated)
        answers, absent = outcome.result(SOON)
        assert (answers.keys(), absent) == ({"north", "other"}, {})
        counters = hub.counters["north"]
        assert (counters.samples_asked, counters.questions) == (4, 1)
        assert counters.bytes_sent == 2 * hub.counters["other"].bytes_sent
        following = pool.submit(hub.ask, {"north": ASK}, SOON)
        answer(again, heard(again))
        assert following.result(SOON)[0].keys() == {"north"}


def test_an_agent_whose_cable_was_cut_answers_the_same_question(
    hub: Hub, pool: ThreadPoolExecutor
) -> None:
    relay, stuck = TcpRelay(), Stuck()
    relay.to(hub.address)
    agent = Agent(relay.address, TOKEN, card("north"), stuck, reconnect=QUICK)
    thread = threading.Thread(target=agent.serve)
    thread.start()
    hub.wait_for(1, SOON)
    outcome = pool.submit(hub.ask, {"north": ASK}, SOON)
    stuck.begun.get(timeout=SOON)
    relay.cut()
    wait_until(lambda: hub.counters["north"].end_reason == CONNECTION_LOST)
    stuck.go.set()
    assert outcome.result(SOON)[0].keys() == {"north"}
    agent.close()
    thread.join(SOON)
    relay.close()


def test_whoever_stays_away_is_waited_for_once(
    hub: Hub, came: Come, pool: ThreadPoolExecutor
) -> None:
    north = came("north")
    outcome = pool.submit(hub.ask, {"north": ASK}, 0.4)
    heard(north)
    north.close()
    assert outcome.result(SOON) == ({}, {"north": "no answer within 0.4 s"})
    began = time.monotonic()
    for _ in range(5):
        assert hub.ask({"north": ASK}, SOON) == ({}, {"north": CONNECTION_LOST})
    assert time.monotonic() - began < AT_ONCE
    back = came("north")  # and what nobody waits for is not put again
    following = pool.submit(hub.ask, {"north": ASK}, SOON)
    question = heard(back)
    assert question.id == 7
    answer(back, question)
    assert following.result(SOON)[0].keys() == {"north"}


def test_whoever_leaves_in_words_is_not_waited_for(
    hub: Hub, came: Come, pool: ThreadPoolExecutor
) -> None:
    north = came("north")
    outcome = pool.submit(hub.ask, {"north": ASK}, SOON)
    heard(north)
    north.send(Close("enough"))
    assert outcome.result(AT_ONCE) == ({}, {"north": "it left: enough"})


def test_a_question_that_kills_each_session_is_not_put_for_ever(
    hub: Hub, came: Come, pool: ThreadPoolExecutor
) -> None:
    outcome = pool.submit(hub.ask, {"north": ASK}, SOON, quorum=1)
    for _ in range(MAX_ATTEMPTS):
        raw = came("north")
        assert heard(raw).id == 1
        raw.close()
        wait_until(lambda: not hub.cards)
    assert outcome.result(AT_ONCE) == ({}, {"north": CONNECTION_LOST})


def test_a_quorum_that_is_away_is_waited_for(hub: Hub, pool: ThreadPoolExecutor) -> None:
    outcome = pool.submit(hub.ask, {"north": ASK}, SOON, quorum=1)
    time.sleep(0.05)
    with agents(hub, north=honest_answer):
        assert outcome.result(SOON)[0].keys() == {"north"}


def test_closing_ends_the_wait_for_those_who_may_come_back(
    hub: Hub, came: Come, pool: ThreadPoolExecutor
) -> None:
    north = came("north")
    lost = pool.submit(hub.ask, {"north": ASK}, SOON)
    heard(north)
    north.close()
    wait_until(lambda: not hub.cards)
    missing = pool.submit(hub.ask, {"never": ASK}, SOON, quorum=1)
    time.sleep(0.05)
    hub.close()
    assert lost.result(AT_ONCE)[1] == {"north": "the run is over"}
    assert missing.result(AT_ONCE)[1] == {"never": "the run is over"}


def test_whoever_comes_back_with_another_teacher_is_refused(hub: Hub, came: Come) -> None:
    came("north").close()
    wait_until(lambda: not hub.cards)
    for changed, code in (
        (replace(card("north"), classes=6), "FAILED_PRECONDITION"),
        (replace(card("north"), shape=(3, 2, 3)), "FAILED_PRECONDITION"),
        (replace(card("north"), samples=7, pull_back=False, largest_batch=9), None),
    ):
        raw = RawClient(hub)
        raw.send(Hello(VERSION, TOKEN, changed))
        if code:
            assert raw.status()[0] == code
        else:
            assert raw.receive() == Welcome(VERSION)
        raw.close()


def test_a_card_that_does_not_fit_is_no_way_to_another_one() -> None:
    """Who takes part stays as it is, however often it comes with what is refused between."""
    with Hub(TOKEN, misfit=lambda own: "too wide" if own.shape == (1, 2, 2) else None) as hub:
        for shown, status in (
            (card("north"), None),
            (replace(card("north"), shape=(1, 2, 2)), "FAILED_PRECONDITION"),
            (replace(card("north"), classes=6), "FAILED_PRECONDITION"),
            (card("north"), None),
        ):
            raw = RawClient(hub)
            raw.send(Hello(VERSION, TOKEN, shown))
            if status:
                assert raw.status()[0] == status
            else:
                assert raw.receive() == Welcome(VERSION)
            raw.close()
            wait_until(lambda: not hub.cards)


# --- late


def test_one_that_hangs_costs_one_deadline_and_no_more(hub: Hub) -> None:
    stuck = Stuck()
    with agents(hub, hung=stuck, good=honest_answer):
        assert hub.ask(same_request_to_all(hub, ASK), 1.0)[1] == {"hung": "no answer within 1 s"}
        began = time.monotonic()
        for _ in range(10):
            answers, absent = hub.ask(same_request_to_all(hub, ASK), SOON)
            assert answers.keys() == {"good"}
            assert absent == {"hung": "it still owes the answer to question 1"}
        assert time.monotonic() - began < AT_ONCE
        stuck.go.set()
        wait_until(lambda: hub.counters["hung"].answers == 1)
        assert hub.ask(same_request_to_all(hub, ASK), SOON)[0].keys() == {"hung", "good"}
        assert hub.counters["hung"].samples_asked == 8


def test_the_others_linger_after_a_quorum(hub: Hub) -> None:
    stuck = Stuck()
    with agents(hub, slow=stuck, a=honest_answer, b=honest_answer):
        began = time.monotonic()
        answers, absent = hub.ask(same_request_to_all(hub, ASK), SOON, quorum=2, linger=0.1)
        assert 0.1 <= time.monotonic() - began < AT_ONCE
        assert answers.keys() == {"a", "b"}
        assert absent == {"slow": "no answer within 0.1 s after the quorum's"}
        stuck.go.set()


def test_refusals_are_no_quorum(hub: Hub) -> None:
    refusal = Refusal(Reason.SPENT, "nothing left")

    def unhurried(request: Ask | PullBack) -> Reply:
        time.sleep(1.0)
        return honest_answer(request)

    with agents(hub, no=lambda _: refusal, yes=unhurried):
        answers, absent = hub.ask(same_request_to_all(hub, ASK), SOON, quorum=1, linger=0.0)
        assert (answers.keys(), absent) == ({"yes"}, {"no": refusal})


def test_by_default_the_others_have_the_floor_or_a_multiple_of_the_quorums_time(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linger, "LINGER_FLOOR_SECONDS", 0.1)
    stuck = Stuck()

    def unhurried(request: Ask | PullBack) -> Reply:
        time.sleep(0.3)
        return honest_answer(request)

    with agents(hub, slow=stuck, a=unhurried, b=honest_answer):
        began = time.monotonic()
        answers, absent = hub.ask(same_request_to_all(hub, ASK), 60.0, quorum=2, linger=ADAPTIVE)
        assert 5 * 0.3 <= time.monotonic() - began < SOON
        assert answers.keys() == {"a", "b"}
        told = re.fullmatch(LATE, str(absent["slow"]))
        assert told
        assert float(told[1]) >= 4 * 0.3
        began = time.monotonic()  # it is not asked again before it has answered
        _, absent = hub.ask(same_request_to_all(hub, ASK), 60.0, quorum=2, linger=ADAPTIVE)
        assert absent == {"slow": "it still owes the answer to question 1"}
        assert time.monotonic() - began < AT_ONCE
        stuck.go.set()


def test_whoever_is_late_by_the_adaptive_linger_again_and_again_is_left_out(
    hub: Hub, came: Come, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would cost everybody the floor at each question, by answering just after it."""
    monkeypatch.setattr(linger, "LINGER_FLOOR_SECONDS", 0.5)
    slow = came("slow")
    with agents(hub, good=honest_answer):
        for late in (1, 2):
            absent = hub.ask(same_request_to_all(hub, ASK), SOON, linger=ADAPTIVE)[1]
            assert absent.keys() == {"slow"}
            assert re.fullmatch(LATE, str(absent["slow"]))
            answer(slow, heard(slow))
            wait_until(lambda late=late: hub.counters["slow"].answers == late)
        _, absent = hub.ask(same_request_to_all(hub, ASK), SOON, linger=ADAPTIVE)
        assert "2 answers in a row were late; asked again in " in str(absent["slow"])


def test_all_may_be_waited_for(hub: Hub) -> None:
    def unhurried(request: Ask | PullBack) -> Reply:
        time.sleep(0.5)
        return honest_answer(request)

    with agents(hub, slow=unhurried, quick=honest_answer):
        assert not hub.ask(same_request_to_all(hub, ASK), SOON, quorum=1, linger=ALL)[1]


def test_answer_times_are_counted_by_institution(hub: Hub) -> None:
    def unhurried(request: Ask | PullBack) -> Reply:
        time.sleep(0.2)
        return honest_answer(request)

    with agents(hub, slow=unhurried, quick=honest_answer):
        for _ in range(5):
            hub.ask(same_request_to_all(hub, ASK), SOON)
        slow, quick = (traffic_of(hub.counters[name].counts) for name in ("slow", "quick"))
    assert 0.18 <= slow.answer_seconds_median <= slow.answer_seconds_p90 < SOON
    assert quick.answer_seconds_median < slow.answer_seconds_median
    assert slow.questions == 5


def test_a_debt_ends_with_the_hubs_patience_and_the_agent_may_come_back() -> None:
    stuck = Stuck()
    with Hub(TOKEN, late_answer_seconds=0.1) as hub, agents(hub, hung=stuck):
        hub.ask({"hung": ASK}, 0.05)
        wait_until(lambda: not hub.cards)
        assert (
            hub.counters["hung"].end_reason
            == "it owed the answer to question 1 for more than 0.1 s"
        )
        assert hub.counters["hung"].protocol_violations == 0
        stuck.go.set()
        hub.wait_for(1, SOON)  # the agent took it for a pause, not for the end
        assert hub.ask({"hung": ASK}, SOON)[0].keys() == {"hung"}


def test_whoever_neither_speaks_nor_reads_loses_its_place() -> None:
    with Hub(TOKEN, late_answer_seconds=0.1) as hub:
        deaf = RawClient(hub)
        deaf.join("deaf")
        large = Ask(torch.zeros(4000, 3, 40, 40, dtype=torch.uint8))
        wait_until(
            lambda: bool(hub.ask({"deaf": large}, 0.1)) and hub.counters["deaf"].questions == 1
        )
        wait_until(lambda: not hub.cards)
        deaf.close()


def test_whoever_is_late_again_and_again_is_asked_less_and_less(
    hub: Hub, came: Come, pool: ThreadPoolExecutor
) -> None:
    north = came("north")
    for late in (1, 2):
        assert hub.ask({"north": ASK}, 0.4)[1] == {"north": "no answer within 0.4 s"}
        answer(north, heard(north))
        wait_until(lambda late=late: hub.counters["north"].answers == late)
    began = time.monotonic()
    _, absent = hub.ask({"north": ASK}, SOON)
    assert time.monotonic() - began < AT_ONCE
    assert "2 answers in a row were late; asked again in 0." in str(absent["north"])
    time.sleep(0.4)
    for _ in range(2):  # it has made good what it missed
        outcome = pool.submit(hub.ask, {"north": ASK}, SOON)
        answer(north, heard(north))
        assert outcome.result(SOON)[0].keys() == {"north"}
    assert hub.ask({"north": ASK}, 0.4)[1] == {"north": "no answer within 0.4 s"}
    answer(north, heard(north))
    wait_until(lambda: hub.counters["north"].answers == 5)
    outcome = pool.submit(hub.ask, {"north": ASK}, SOON)  # late once: no rest
    answer(north, heard(north))
    assert outcome.result(SOON)[0].keys() == {"north"}


# --- banned


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (encode_answer(1, 2, (4, 5), b"\xff\x7e" + bytes(38)), "not finite"),
        (encode_answer(1, 2, (4, 5), b"\x00\x7c" + bytes(38)), "not finite"),
        (encode_answer(1, 2, (3, 5), bytes(30)), "expected (4, 5)"),
        (b"\xff" * 40, ""),
    ],
    ids=["NaN", "infinity", "a wrong shape", "garbage"],
)
def test_a_ban_ends_the_run_for_one_and_nobody_else(
    hub: Hub, came: Come, pool: ThreadPoolExecutor, said: bytes, words: str
) -> None:
    with agents(hub, good=honest_answer):
        bad = came("bad")
        outcome = pool.submit(hub.ask, same_request_to_all(hub, ASK), SOON)
        heard(bad)
        bad.send(said)
        answers, absent = outcome.result(AT_ONCE)  # it is not waited for
        assert answers.keys() == {"good"}
        assert isinstance(absent["bad"], BanReason)
        assert words in absent["bad"]
        wait_until(lambda: names(hub) == {"good"})
        again = RawClient(hub)
        again.send(Hello(VERSION, TOKEN, card("bad")))
        code, reason = again.status()
        assert code == "PERMISSION_DENIED"
        assert reason == f"banned from this run: {absent['bad']}"
        again.close()
        assert hub.counters["bad"].protocol_violations == 1
        assert hub.ask({"bad": ASK, "good": ASK}, SOON, quorum=2)[1].keys() == {"bad"}


def test_an_answer_to_a_question_of_the_last_session_is_a_violation(
    hub: Hub, came: Come, pool: ThreadPoolExecutor
) -> None:
    first = came("north")
    pool.submit(hub.ask, {"north": ASK}, 0.3).result(SOON)
    first.close()
    wait_until(lambda: not hub.cards)
    again = came("north")
    again.send(Answer(1, honest_answer(ASK)))
    wait_until(lambda: hub.counters["north"].protocol_violations == 1)


# --- who joins


class Seen(list[Progress]):
    """A watch that keeps what it is told."""

    def __call__(self, progress: Progress) -> None:
        self.append(progress)

    def of(self, *kinds: str) -> list[tuple[str, str]]:
        return [(p.kind, str(p.facts["name"])) for p in self if p.kind in kinds]


def parts(checkpoint: Checkpoint | None = None, quorum: int = 1) -> Ingredients:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        student = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    plan = Plan(budget=12 * 8, batch=8, steps=24)
    return Ingredients(
        student, cudfkd(), plan, {"pink": build_prior("pink")}, 0, quorum, checkpoint
    )


def told(number: int, *name: str) -> dict[str, Card]:
    return {n: replace(card(n), class_counts=(number,) * 5) for n in name}


def test_a_joiner_takes_part_from_the_next_question_on(hub: Hub, tmp_path: Path) -> None:
    asked: dict[str, int] = {"north": 0, "late": 0}
    threads: list[threading.Thread] = []

    def start(which: Card) -> None:
        def send(request: Ask | PullBack) -> Reply:
            asked[which.name] += 1
            if which.name == "north" and asked["north"] == 4:
                start(told(9, "late")["late"])
                wait_until(lambda: "late" in names(hub))
            return honest_answer(request)

        agent = Agent(hub.address, TOKEN, which, send, reconnect=QUICK)
        threads.append(threading.Thread(target=agent.serve))
        threads[-1].start()

    start(told(3, "north")["north"])
    seen = Seen()
    checkpoint = Checkpoint.begin(tmp_path, load_experiment("digits"), "local", 0.0, record=True)
    run = parts(checkpoint)
    participants = RemoteInstitutions(hub, run, hub.wait_for(1, SOON), SOON)
    left = Coordinator(run, participants.cards, participants.answer, seen).finish()
    checkpoint.close()
    assert asked == {"north": 12, "late": 8}
    assert seen.of("joined", "lost", "returned", "banned") == [("joined", "late")]
    assert [each.name for each in participants.cards] == ["north", "late"]
    # Whoever joined is in the recording, which makes the same student.
    replay, again = Replay(tmp_path / "replies.bin"), parts()
    heard_again = Seen()
    Coordinator(again, replay.cards, lambda r: (replay.answer(r), {}), heard_again).finish()
    assert heard_again.of("joined") == [("joined", "late")]
    for ours, theirs in zip(left.student.parameters(), again.student.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    hub.close()
    for thread in threads:
        thread.join(SOON)


@pytest.mark.parametrize(
    ("misfit", "words"),
    [
        (replace(card("new"), classes=7, class_counts=(1,) * 7), "knows 5, 6"),
        (replace(card("new"), shape=(1, 8, 8), class_counts=(1,) * 5), "(1, 8, 8)"),
        (replace(card("new"), signals=frozenset(), class_counts=(1,) * 5), "needs logits"),
        (card("new"), "tell what the others tell"),
    ],
    ids=["classes", "shape", "signals", "counts"],
)
def test_a_joiner_that_does_not_fit_is_told_why_and_not_asked(
    hub: Hub, misfit: Card, words: str
) -> None:
    run = parts()
    north = Agent(hub.address, TOKEN, told(3, "north")["north"], honest_answer)
    served: list[str] = []
    threads = [threading.Thread(target=north.serve)]
    threads[0].start()
    participants = RemoteInstitutions(hub, run, hub.wait_for(1, SOON), SOON)
    new = Agent(hub.address, TOKEN, misfit, honest_answer)
    threads.append(threading.Thread(target=lambda: served.append(new.serve())))
    threads[1].start()
    hub.wait_for(2, SOON)
    answers, lost = participants.answer(ASK)
    assert (answers.keys(), lost) == ({"north"}, {})
    threads[1].join(SOON)
    assert words in served[0]
    assert hub.counters["new"].samples_asked == 0
    north.close()
    threads[0].join(SOON)


def test_who_goes_who_is_back_and_who_is_banned_is_told_once(hub: Hub, came: Come) -> None:
    script: dict[int, Callable[[], object]] = {}
    number = 0

    def paced(request: Ask | PullBack) -> Reply:
        nonlocal number
        number += 1
        script.pop(number, lambda: None)()
        return honest_answer(request)

    def gone() -> None:
        flaky.close()
        wait_until(lambda: hub.counters["flaky"].end_reason != "")

    def back() -> None:
        flaky.restart()

    def rude() -> None:
        came_rude.send(b"\xff\xff")
        wait_until(lambda: hub.counters["rude"].protocol_violations == 1)

    class Flaky:
        def restart(self) -> None:
            self.agent = Agent(hub.address, TOKEN, card("flaky"), honest_answer, reconnect=QUICK)
            self.thread = threading.Thread(target=self.agent.serve)
            self.thread.start()
            wait_until(lambda: "flaky" in names(hub))

        def close(self) -> None:
            self.agent.close()
            self.thread.join(SOON)

    flaky = Flaky()
    flaky.restart()
    came_rude = came("rude")
    script.update({3: gone, 6: back, 8: rude})
    seen = Seen()
    with agents(hub, paced=paced):
        run = parts()
        participants = RemoteInstitutions(hub, run, hub.wait_for(3, SOON), 0.5, linger=0.3)
        Coordinator(run, participants.cards, participants.answer, seen).finish()
        flaky.close()
    events = seen.of("lost", "returned", "banned", "joined")
    assert [e for e in events if e[1] == "flaky"] == [("lost", "flaky"), ("returned", "flaky")]
    assert [e for e in events if e[1] == "rude"] == [("lost", "rude"), ("banned", "rude")]
    for progress in seen:
        if progress.kind in ("lost", "returned", "banned"):
            parse_event({"kind": progress.kind, **progress.facts}, "here")


def test_too_few_is_too_few(hub: Hub, came: Come) -> None:
    run = parts(quorum=2)
    with agents(hub, north=honest_answer):
        came("rude").send(b"\xff\xff")
        participants = RemoteInstitutions(hub, run, [card("north"), card("rude")], SOON)
        with pytest.raises(QuorumLost, match="1 of 2 institutions answered"):
            Coordinator(run, participants.cards, participants.answer).finish()


# --- how it is


def test_the_hub_tells_whether_it_serves(hub: Hub) -> None:
    with dial(hub.address, None) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", SERVICE):
            request = health_pb2.HealthCheckRequest(service=service)
            said = health.Check(request, timeout=SOON)
            assert said.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError, match="use Check"):
            next(health.Watch(health_pb2.HealthCheckRequest(), timeout=SOON))


def test_counters_can_be_scraped_on_this_machine(hub: Hub) -> None:
    address, stop = serve_metrics(hub)
    with pytest.raises(SettingsError, match="choose another port"):
        serve_metrics(hub, int(address.rpartition(":")[2]))
    refusal = Refusal(Reason.SPENT, "nothing left")
    with agents(hub, north=honest_answer, south=lambda _: refusal):
        hub.ask(same_request_to_all(hub, ASK), SOON)
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=SOON) as page:
            said = dict(line.rsplit(" ", 1) for line in page.read().decode().splitlines())
    stop()
    assert said["fedkd_institutions_present"] == "2.0"
    assert said['fedkd_questions_total{institution="north"}'] == "1.0"
    assert said['fedkd_answers_total{institution="north"}'] == "1.0"
    assert said['fedkd_refusals_total{institution="south"}'] == "1.0"
    for name in ("protocol_violations", "strikes"):  # the second is its name of before
        assert said[f'fedkd_{name}_total{{institution="north"}}'] == "0.0"
    assert said['fedkd_samples_asked_total{institution="south"}'] == "4.0"
    assert said['fedkd_answer_seconds_count{institution="south"}'] == "1.0"
    assert 0 < float(said['fedkd_answer_seconds_sum{institution="north"}']) < SOON
    assert hub.counters["north"].seconds > 0
