"""``fedkd-server run``, killed by SIGKILL and resumed: who is kept out, who is waited for."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedkd.client.sessions.agent import Agent, ReconnectPolicy
from fedkd.protocol import Ask, Card, PullBack, Reply, Signal
from fedkd.server import cli
from fedkd.server.report.records.run_folder import RESULT
from fedkd.wire import VERSION, Hello, Message, Query, Welcome
from tests.support.hub_clients import RawClient
from tests.support.server_process import SOON, ServerProcess, running_server

PACE = 0.1
"""Seconds that an honest answer takes: no question is kept before."""
QUICK = ReconnectPolicy(initial_pause=0.05, max_pause=0.2, give_up_after=SOON)
SETTINGS = (
    *("questions.budget=480", "questions.batch=16", "questions.quorum=1", "questions.timeout=1.0"),
    *("student.steps=40", "student.model=mlp"),
)


def digits(name: str) -> Card:
    return Card(name, 10, (1, 8, 8), frozenset({Signal.LOGITS}))


def slowly(request: Ask | PullBack) -> Reply:
    time.sleep(PACE)
    return Reply({Signal.LOGITS: request.images.flatten(1)[:, :10].half()})


@contextmanager
def agent(address: str, token: str, card: Card) -> Iterator[None]:
    """Somebody honest, until the block ends."""
    there = Agent(address, token, card, slowly, reconnect=QUICK)
    thread = threading.Thread(target=there.serve)
    thread.start()
    try:
        yield
    finally:
        there.close()
        thread.join(SOON)


def visit(address: str, token: str, card: Card) -> tuple[RawClient, Message | tuple[str, str]]:
    """Somebody who dials in, and what he hears first: a Welcome, or why he may not come in."""
    raw = RawClient(address)
    raw.send(Hello(VERSION, token, card))
    try:
        return raw, raw.receive()
    except Exception:
        return raw, (raw.stream.code().name, raw.stream.details())


def refusal(address: str, token: str, card: Card) -> tuple[str, str]:
    raw, heard = visit(address, token, card)
    raw.close()
    assert isinstance(heard, tuple), heard
    return heard


def events(out: Path) -> list[dict[str, Any]]:
    file = out / "events.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def named(out: Path, kind: str) -> list[str]:
    return [event["name"] for event in events(out) if event["kind"] == kind]


def start(folder: Path, *words: str) -> Any:
    return running_server(folder, "run", *words, "--insecure", "--wait", "600")


def where(command: ServerProcess) -> str:
    return command.wait_for_line(r"institutions may dial (\S+)")


def test_a_ban_outlives_a_kill_and_a_resumed_run_waits_for_no_more_than_a_quorum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    words = ["digits", "--institutions", "3", "--out", "run", "--checkpoint", "0"]
    words += [word for setting in SETTINGS for word in ("--set", setting)]
    with start(tmp_path, *words) as command:
        token = command.wait_for_line(r"the token of this run is (\S+)")
        address = where(command)
        with agent(address, token, digits("north")), agent(address, token, digits("south")):
            rude, heard = visit(address, token, digits("rude"))
            assert heard == Welcome(VERSION)
            assert isinstance(rude.receive(), Query)
            rude.send(b"\xff" * 40)
            rude.receive()  # a Close that says why: from here on the ban is known
            command.process.kill()
            command.process.wait()
        rude.close()
    assert not [event for event in events(out) if event["kind"] == "asked"], "nothing was kept"

    with start(tmp_path, "--resume", "run") as command:
        address = where(command)
        assert any("2 institutions may dial" in line for line in command.errors)
        assert refusal(address, token, digits("rude"))[0] == "PERMISSION_DENIED"
        with agent(address, token, digits("north")):
            assert command.wait_for_line(r"starting without all +institutions=\"?(1 of 2)")
            while len([e for e in events(out) if e["kind"] == "asked"]) < 4:
                assert command.process.poll() is None
                time.sleep(0.02)
            other = replace(digits("south"), classes=9)
            code, why = refusal(address, token, other)
            assert (code, "another card" in why) == ("FAILED_PRECONDITION", True)
            with agent(address, token, replace(digits("south"), samples=10_000)):
                assert command.end() == 0, command.errors
    assert (named(out, "joined"), named(out, "banned")) == ([], ["rude"])
    assert (named(out, "lost")[:1], named(out, "returned")) == (["south"], ["south"])
    teachers = json.loads((out / RESULT).read_text())["teachers"]
    asked = {teacher["name"]: teacher["samples_asked"] for teacher in teachers}
    assert asked.keys() == {"north", "south", "rude"}
    assert asked["north"] == 480
    assert 0 < asked["south"] < 480
    end_but_for_its_page(out, monkeypatch)


def end_but_for_its_page(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is killed between the result and the page finishes when it is resumed."""
    page = (out / "report.html").read_bytes()
    (out / "report.html").unlink()
    (out / "checkpoint").mkdir()
    (out / "checkpoint" / "replies.bin").write_bytes(b"all of it")
    monkeypatch.setattr("sys.argv", ["fedkd-server", "run", "--resume", str(out), "--insecure"])
    monkeypatch.setattr("signal.signal", lambda number, call: None)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    assert (out / "report.html").read_bytes() == page
    assert not (out / "checkpoint").exists()
