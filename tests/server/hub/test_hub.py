"""A real hub, real agents, real gRPC on this machine; one that misbehaves harms itself alone."""

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import trustme

from fedkd.client.sessions.agent import LEFT, Agent, ReconnectPolicy
from fedkd.errors import LocalProtocolError, QuorumLost, RemoteProtocolError, SettingsError
from fedkd.protocol import Ask, PullBack, Reason, Refusal, Reply, Signal
from fedkd.server.hub.bans import BanReason, Bans
from fedkd.server.hub.hub import RUN_OVER, Hub
from fedkd.server.hub.participant_session import CONNECTION_LOST
from fedkd.wire import VERSION, Answer, Close, Hello, Message, Query, Welcome, encode
from fedkd.wire.grpc_channels import dial, grpc
from fedkd.wire.v1 import teacher_pb2 as pb
from tests.support.hub_clients import (
    HALF,
    IMAGES,
    QUICK,
    SOON,
    TOKEN,
    RawClient,
    TcpRelay,
    agents,
    card,
    encode_answer,
    hello,
    honest_answer,
    names,
    same_request_to_all,
    wait_until,
)

ROOT = Path(__file__).parents[3]
# --- what it is for


def test_every_institution_answers_and_is_counted(hub: Hub) -> None:
    with agents(hub, west=honest_answer, east=honest_answer, north=honest_answer):
        assert [each.name for each in hub.wait_for(3, SOON)] == ["east", "north", "west"]
        assert hub.cards[1] == card("north")
        ask = Ask(IMAGES)
        pulls = {
            name: PullBack(IMAGES, {Signal.LOGITS: torch.full((4, 5), weight)})
            for name, weight in (("east", 1.0), ("west", 2.0))
        }
        answers, absent = hub.ask(same_request_to_all(hub, ask), SOON)
        gradients, none = hub.ask(pulls, SOON)
        assert absent == none == {}
        for reply in answers.values():
            assert torch.equal(
                reply.signals[Signal.LOGITS], honest_answer(ask).signals[Signal.LOGITS]
            )
        assert {name: reply.gradient.mean().item() for name, reply in gradients.items()} == {
            "east": 5.0,
            "west": 10.0,
        }
        east, north = hub.counters["east"], hub.counters["north"]
        assert (east.samples_asked, east.samples_pulled_back) == (4, 4)
        assert (north.samples_asked, north.samples_pulled_back) == (4, 0)
        assert north.bytes_sent == len(encode(Query(1, ask)))
        assert north.bytes_received == len(encode(Answer(1, honest_answer(ask)), packed=True))
    assert hub.counters["east"].end_reason == f"it left: {LEFT}"


def test_exact_answers_come_in_float32(hub: Hub) -> None:
    with agents(hub, north=honest_answer):
        answers, _ = hub.ask({"north": Ask(IMAGES, exact=True)}, SOON)
    assert answers["north"].signals[Signal.LOGITS].dtype == torch.float32


def test_answers_own_their_memory(hub: Hub) -> None:
    with agents(hub, north=honest_answer):
        answers, _ = hub.ask({"north": Ask(IMAGES)}, SOON)
    # Storage over somebody else's bytes cannot be resized.
    assert answers["north"].signals[Signal.LOGITS].untyped_storage().resizable()


def test_many_questions_may_be_put_at_once_by_many_threads(hub: Hub) -> None:
    with agents(hub, north=honest_answer, south=honest_answer):
        outcomes = []

        def put(name: str) -> None:
            outcomes.extend(hub.submit(name, Ask(IMAGES)) for _ in range(25))

        threads = [threading.Thread(target=put, args=(n,)) for n in ("north", "south") * 2]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(isinstance(outcome.result(SOON), Reply) for outcome in outcomes)
        assert len(outcomes) == 100


def test_a_refusal_comes_as_it_was_said(hub: Hub) -> None:
    refusal = Refusal(Reason.SPENT, "nothing left")
    with agents(hub, north=lambda _: refusal, south=honest_answer):
        answers, absent = hub.ask(same_request_to_all(hub, Ask(IMAGES)), SOON)
        assert absent == {"north": refusal}
        assert answers.keys() == {"south"}
        assert hub.counters["north"].refusals == 1


def test_a_teacher_that_fails_tells_nobody_why(
    hub: Hub, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: Ask | PullBack) -> Reply:
        raise ValueError("patient 4711")

    nan = torch.full((4, 5), float("nan")).half()
    with agents(hub, a=fail, b=lambda _: Reply({Signal.LOGITS: nan}), c=lambda _: Reply()):
        _, absent = hub.ask(same_request_to_all(hub, Ask(IMAGES)), SOON)
        failed = Refusal(Reason.FAILED, "the teacher could not answer")
        assert absent == {"a": failed, "b": failed, "c": failed}
        assert names(hub) == {"a", "b", "c"}
    assert "4711" not in "".join(capfd.readouterr()) + caplog.text


# --- who may come in


@pytest.mark.parametrize(
    ("first", "code", "words"),
    [
        (hello(token="guess"), "UNAUTHENTICATED", "the token is not of this run"),
        (hello(token=""), "UNAUTHENTICATED", "the token is not of this run"),
        (hello(version=VERSION + 1), "FAILED_PRECONDITION", "install the release"),
        (hello("south"), "ALREADY_EXISTS", "'south' is here already"),
        (b"garbage", "INVALID_ARGUMENT", "wire type"),
        (Answer(1, honest_answer(Ask(IMAGES))), "INVALID_ARGUMENT", "Answer from the institution"),
    ],
)
def test_whoever_may_not_come_in_is_told_why(
    hub: Hub, raw: RawClient, first: Message | bytes, code: str, words: str
) -> None:
    with agents(hub, south=honest_answer):
        raw.send(first)
        status, reason = raw.status()
        assert status == code
        assert words in reason
        assert names(hub) == {"south"}
        answers, _ = hub.ask({"south": Ask(IMAGES)}, SOON)
        assert answers.keys() == {"south"}


def test_an_agent_gives_up_when_trying_again_does_not_help(hub: Hub) -> None:
    assert "token" in Agent(hub.address, "guess", card("north"), honest_answer).serve()


def test_an_agent_waits_for_its_name_to_be_free(hub: Hub, raw: RawClient) -> None:
    raw.join("north")
    agent = Agent(hub.address, TOKEN, card("north"), honest_answer, reconnect=QUICK)
    thread = threading.Thread(target=agent.serve)
    thread.start()
    time.sleep(0.1)
    raw.close()
    wait_until(lambda: bool(hub.ask({"north": Ask(IMAGES)}, 0.5)[0]))
    agent.close()
    thread.join(SOON)
    assert not thread.is_alive()


def test_a_certificate_speaks_for_its_own_name_only() -> None:
    ca = trustme.CA()
    here, north = ca.issue_cert("127.0.0.1"), ca.issue_cert("north")
    pem = ca.cert_pem.bytes()
    server = grpc.ssl_server_credentials(
        [(here.private_key_pem.bytes(), here.cert_chain_pems[0].bytes())], pem, True
    )
    client = grpc.ssl_channel_credentials(
        pem, north.private_key_pem.bytes(), north.cert_chain_pems[0].bytes()
    )
    with Hub(TOKEN, "0.0.0.0:0", server) as hub:
        hub.address = hub.address.replace("0.0.0.0", "127.0.0.1")
        pretender = RawClient(hub, client)
        pretender.send(hello("south"))
        assert pretender.status() == (
            "PERMISSION_DENIED",
            "the certificate does not speak for 'south'",
        )
        pretender.close()
        agent = Agent(hub.address, TOKEN, card("north"), honest_answer, client, QUICK)
        thread = threading.Thread(target=agent.serve)
        thread.start()
        hub.wait_for(1, SOON)
        answers, _ = hub.ask({"north": Ask(IMAGES)}, SOON)
        assert answers.keys() == {"north"}
    thread.join(SOON)


@pytest.mark.parametrize("address", ["0.0.0.0:0", "192.0.2.1:80", "hub.example:443", "[::]:0"])
def test_plain_text_never_leaves_this_machine(address: str) -> None:
    with pytest.raises(SettingsError, match="plain text"):
        Hub(TOKEN, address)
    with pytest.raises(SettingsError, match="plain text"):
        Agent(address, TOKEN, card("north"), honest_answer).serve()


def test_settings_that_cannot_be_are_refused_in_one_line(hub: Hub) -> None:
    for token, address, words in (
        (TOKEN, hub.address, "choose another port"),
        (TOKEN, "127.0.0.1", "expected host:port"),
        ("", "127.0.0.1:0", "empty token"),
    ):
        with pytest.raises(SettingsError, match=words) as error:
            Hub(token, address)
        assert "\n" not in str(error.value)


# --- what breaks


LAWFUL = encode_answer(1, HALF, (4, 5), bytes(40))


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ([b"\x7a\xff\xff\xff\xff\x0f garbage"], "cut short"),
        ([encode_answer(1, HALF, (4, 5), b"\xff\xff" + bytes(38))], "not finite"),
        ([encode_answer(1, HALF, (5, 4), bytes(40))], "expected (4, 5)"),
        ([encode_answer(1, HALF, (4, 5), bytes(38))], "38 bytes"),
        ([encode_answer(1, pb.DTYPE_FLOAT32, (4, 5), bytes(80))], "float16"),
        ([encode_answer(1, pb.DTYPE_ROWS, (4, 5), bytes(31))], "31 bytes for packed rows"),
        ([encode_answer(1, pb.DTYPE_ROWS, (4, 5), b"\x06" + bytes(31))], "steps that float16"),
        ([encode_answer(1, pb.DTYPE_ROWS, (5, 5), bytes(40))], "expected (4, 5)"),
        ([encode_answer(2, HALF, (4, 5), bytes(40))], "not open"),
        ([LAWFUL, LAWFUL], "not open"),
        ([Hello(VERSION, TOKEN, card("bad"))], "Hello from the institution"),
        ([Answer(1, Reply(gradient=torch.zeros(4, 3, 2, 2)))], "exactly the signals"),
    ],
)
def test_whoever_breaks_the_law_loses_its_session_and_the_run(
    hub: Hub, raw: RawClient, said: list[Message | bytes], words: str
) -> None:
    with agents(hub, good=honest_answer):
        raw.join("bad")
        outcomes = {name: hub.submit(name, Ask(IMAGES)) for name in ("bad", "good")}
        assert isinstance(raw.receive(), Query)
        raw.send(*said)
        farewell = raw.receive()
        assert isinstance(farewell, Close)
        assert words in farewell.reason
        assert raw.status()[0] == "INVALID_ARGUMENT"
        assert isinstance(outcomes["good"].result(SOON), Reply)
        if said[0] != LAWFUL:
            with pytest.raises(RemoteProtocolError) as error:
                outcomes["bad"].result(SOON)
            assert words in str(error.value)
        wait_until(lambda: names(hub) == {"good"})
        counters = hub.counters["bad"]
        assert counters.protocol_violations == 1
        assert words in counters.end_reason
        answers, absent = hub.ask(dict.fromkeys(("bad", "good"), Ask(IMAGES)), SOON)
        assert answers.keys() == {"good"}
        assert isinstance(absent["bad"], BanReason)
        assert words in absent["bad"]
        again = Agent(
            hub.address, TOKEN, card("bad"), honest_answer
        ).serve()  # returns: it is final
        assert again.startswith("banned from this run: ")
        assert words in again


def test_a_reply_larger_than_the_hub_takes_costs_its_own_session() -> None:
    with Hub(TOKEN, max_message_bytes=1000) as hub, agents(hub, good=honest_answer):
        raw = RawClient(hub)
        raw.join("bad")
        outcome = hub.submit("bad", Ask(IMAGES))
        raw.send(encode_answer(1, HALF, (4, 500), bytes(4000)))
        with pytest.raises(RemoteProtocolError):
            outcome.result(SOON)
        assert hub.ask({"good": Ask(IMAGES)}, SOON)[0]
        raw.close()


def test_a_late_answer_is_dropped_and_the_session_goes_on(hub: Hub) -> None:
    release = threading.Event()

    def slow_once(request: Ask | PullBack) -> Reply:
        release.wait(SOON)
        return honest_answer(request)

    with agents(hub, slow=slow_once, quick=honest_answer):
        began = time.monotonic()
        answers, absent = hub.ask(same_request_to_all(hub, Ask(IMAGES)), 1.0)
        assert time.monotonic() - began < SOON / 2
        assert answers.keys() == {"quick"}
        assert absent == {"slow": "no answer within 1 s"}
        for _ in range(5):  # whoever owes an answer is asked nothing more
            began = time.monotonic()
            _, absent = hub.ask({"slow": Ask(IMAGES)}, SOON)
            assert time.monotonic() - began < SOON / 2
            assert absent == {"slow": "it still owes the answer to question 1"}
        release.set()
        wait_until(lambda: hub.counters["slow"].answers == 1)
        other = Ask(IMAGES.flip(0))
        answers, _ = hub.ask({"slow": other}, SOON)
        assert torch.equal(
            answers["slow"].signals[Signal.LOGITS], honest_answer(other).signals[Signal.LOGITS]
        )
        assert hub.counters["slow"].samples_asked == 2 * 4
        assert hub.counters["slow"].protocol_violations == 0


VICTIM = """
import sys, time
from fedkd.client.sessions.agent import Agent
from fedkd.protocol import Card, Signal
card = Card("victim", 5, (3, 2, 2), frozenset({Signal.LOGITS}))
Agent(sys.argv[1], sys.argv[2], card, lambda _: time.sleep(60)).serve()
"""


def test_a_killed_institution_is_missed_at_once(hub: Hub) -> None:
    victim = subprocess.Popen([sys.executable, "-c", VICTIM, hub.address, TOKEN], cwd=ROOT)
    try:
        hub.wait_for(1, 60)
        outcome = hub.submit("victim", Ask(IMAGES))
        wait_until(lambda: hub.counters["victim"].samples_asked == 4)
        victim.send_signal(signal.SIGKILL)
        with pytest.raises(RemoteProtocolError, match=CONNECTION_LOST):
            outcome.result(SOON)
        wait_until(lambda: not hub.cards)
        assert hub.counters["victim"].end_reason == CONNECTION_LOST
        assert hub.ask({"victim": Ask(IMAGES)}, SOON)[1] == {"victim": CONNECTION_LOST}
    finally:
        victim.kill()
        victim.wait()


def test_agents_come_back_to_a_hub_that_was_lost() -> None:
    relay = TcpRelay()
    with Hub(TOKEN) as hub:
        relay.to(hub.address)
        agent = Agent(relay.address, TOKEN, card("north"), honest_answer, reconnect=QUICK)
        served: list[str] = []
        thread = threading.Thread(target=lambda: served.append(agent.serve()))
        thread.start()
        hub.wait_for(1, SOON)
        relay.cut()
        wait_until(lambda: not hub.cards)
        assert hub.counters["north"].end_reason == CONNECTION_LOST
        hub.wait_for(1, SOON)
        assert hub.counters["north"].end_reason == ""
        assert hub.ask({"north": Ask(IMAGES)}, SOON)[0]
        assert hub.counters["north"].samples_asked == 4
    thread.join(SOON)
    assert served == [RUN_OVER]
    relay.close()


def test_an_agent_ends_when_the_coordinator_stays_away() -> None:
    with Hub(TOKEN) as hub:
        address = hub.address
    patience = ReconnectPolicy(initial_pause=0.01, max_pause=0.05, give_up_after=0.3)
    assert (
        "is gone" in Agent(address, TOKEN, card("north"), honest_answer, reconnect=patience).serve()
    )


def test_an_agent_that_is_told_to_stop_stops_wherever_it_is(hub: Hub) -> None:
    waiting = Agent(
        "127.0.0.1:9", TOKEN, card("waiting"), honest_answer, reconnect=ReconnectPolicy(60, 60, 600)
    )
    idle = Agent(hub.address, TOKEN, card("idle"), honest_answer)
    never = Agent(hub.address, TOKEN, card("never"), honest_answer)
    never.close()
    served: queue.SimpleQueue[str] = queue.SimpleQueue()
    threads = [
        threading.Thread(target=lambda agent=agent: served.put(agent.serve()))
        for agent in (waiting, idle, never)
    ]
    for thread in threads:
        thread.start()
    hub.wait_for(1, SOON)
    waiting.close()
    idle.close()
    for thread in threads:
        thread.join(SOON)
        assert not thread.is_alive()
    wait_until(lambda: not hub.cards)
    assert hub.counters["idle"].end_reason == f"it left: {LEFT}"


def test_an_agent_stops_that_is_told_to_while_it_dials(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = Agent(hub.address, TOKEN, card("north"), honest_answer)

    def dial_when_told(*where: str) -> grpc.Channel:
        agent.close()
        return dial(*where)

    monkeypatch.setattr("fedkd.client.sessions.agent.dial", dial_when_told)
    thread = threading.Thread(target=agent.serve, daemon=True)
    thread.start()
    thread.join(SOON / 2)
    assert not thread.is_alive()


@pytest.mark.parametrize(
    "said",
    [b"garbage", encode(Query(1, Ask(IMAGES))), encode(Welcome(VERSION + 1))],
    ids=["garbage", "a question before the welcome", "another version"],
)
def test_an_agent_leaves_a_coordinator_that_breaks_the_law(said: bytes) -> None:
    heard: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def connect(requests: Iterator[bytes], _: grpc.ServicerContext) -> Iterator[bytes]:
        heard.put(next(requests))
        yield said
        heard.put(next(requests))

    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool)
        method = grpc.stream_stream_rpc_method_handler(connect)
        service = "fedkd.wire.v1.TeacherHubService"
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, {"Connect": method}),)
        )
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        agent = Agent(f"127.0.0.1:{port}", TOKEN, card("north"), honest_answer)
        assert "violated the protocol" in agent.serve()
        assert heard.get(timeout=SOON) == encode(hello("north"))
        assert heard.get(timeout=SOON).startswith(b"\x22")  # field 4: Close
        server.stop(None).wait()


FORKING = """
import threading, torch
from torch.utils.data import DataLoader
from fedkd.client.sessions.agent import Agent
from fedkd.protocol import Ask, Card, Reply, Signal
from fedkd.server.hub.hub import Hub
card = Card("north", 5, (3, 2, 2), frozenset({Signal.LOGITS}))
reply = Reply({Signal.LOGITS: torch.zeros(4, 5).half()})
with Hub("token") as hub:
    agent = Agent(hub.address, "token", card, lambda _: reply)
    threading.Thread(target=agent.serve).start()
    hub.wait_for(1, 60)
    list(DataLoader(list(range(8)), num_workers=2, multiprocessing_context="fork"))
    answers, absent = hub.ask({"north": Ask(torch.zeros(4, 3, 2, 2))}, 60)
    assert not absent, absent
"""


def test_data_loaders_may_fork_while_a_session_is_open() -> None:
    unset = {key: value for key, value in os.environ.items() if not key.startswith("GRPC_")}
    done = subprocess.run(
        [sys.executable, "-c", FORKING],
        cwd=ROOT,
        env=unset,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    # Where gRPC tries to follow a fork it says so, and some workers die.
    assert (done.returncode, "fork" in done.stderr) == (0, False), done.stderr


# --- the end


def test_closing_is_quick_final_and_may_be_repeated(hub: Hub, raw: RawClient) -> None:
    busy, released = threading.Event(), threading.Event()

    def stuck(request: Ask | PullBack) -> Reply:
        busy.set()
        released.wait(SOON)
        return honest_answer(request)

    raw.join("silent")
    with agents(hub, stuck=stuck):
        outcome = hub.submit("stuck", Ask(IMAGES))
        assert busy.wait(SOON)
        began = time.monotonic()
        hub.close()
        hub.close()
        assert time.monotonic() - began < SOON / 2
        released.set()
        assert raw.receive() == Close(RUN_OVER)
        for lost in (outcome, hub.submit("stuck", Ask(IMAGES))):
            with pytest.raises(RemoteProtocolError, match=RUN_OVER):
                lost.result(SOON)
        assert hub.cards == ()


def test_waiting_for_too_many_says_who_came(hub: Hub) -> None:
    with (
        agents(hub, north=honest_answer),
        pytest.raises(QuorumLost, match=r"\(north\), expected 2"),
    ):
        hub.wait_for(2, 0.1)


def test_a_request_that_nobody_may_be_asked_is_ours(hub: Hub) -> None:
    with agents(hub, north=honest_answer, south=honest_answer):
        with pytest.raises(LocalProtocolError, match=r"out of \[0, 1\]"):
            hub.ask({"north": Ask(IMAGES), "south": Ask(IMAGES.float())}, SOON)
        assert hub.counters["north"].samples_asked == 0
        assert hub.ask(same_request_to_all(hub, Ask(IMAGES)), SOON)[0].keys() == {"north", "south"}


def test_whoever_never_came_is_absent_with_a_reason(hub: Hub) -> None:
    assert hub.ask({"nobody": Ask(IMAGES)}, SOON) == ({}, {"nobody": "it has not come yet"})


def test_whoever_was_banned_in_an_earlier_life_may_not_come_back() -> None:
    bans = Bans()
    bans.add("north", BanReason("bytes that are no message"))
    with Hub(TOKEN, bans=bans) as hub:
        raw = RawClient(hub)
        raw.send(hello("north"))
        code, why = raw.status()
        raw.close()
        assert (code, why) == (
            "PERMISSION_DENIED",
            "banned from this run: bytes that are no message",
        )
        began = time.monotonic()
        answers, lost = hub.ask({"north": Ask(IMAGES)}, SOON, quorum=1)
        assert time.monotonic() - began < SOON / 2  # nobody waits for it
        assert not answers
        assert isinstance(lost["north"], BanReason)
