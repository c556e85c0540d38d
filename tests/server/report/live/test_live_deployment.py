"""``fedkd-server run --live``: the page of a deployed run, from its beginning to its end."""

import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedkd.client.sessions.agent import Agent
from fedkd.protocol import Ask, Card, PullBack, Reply, Signal
from tests.support.server_process import SOON, running_server

SETTINGS = (
    *("questions.budget=240", "questions.batch=16", "questions.held_back=0.2"),
    *("student.steps=40", "student.model=mlp"),
)


def slowly(request: Ask | PullBack) -> Reply:
    time.sleep(0.1)
    return Reply({Signal.LOGITS: request.images.flatten(1)[:, :10].half()})


@contextmanager
def agent(address: str, token: str, name: str) -> Iterator[None]:
    card = Card(name, 10, (1, 8, 8), frozenset({Signal.LOGITS}))
    there = Agent(address, token, card, slowly)
    thread = threading.Thread(target=there.serve)
    thread.start()
    try:
        yield
    finally:
        there.close()
        thread.join(SOON)


def page(where: str) -> str:
    with urllib.request.urlopen(where, timeout=SOON) as heard:
        return str(heard.read().decode())


def page_with(where: str, text: str) -> str:
    deadline = time.monotonic() + SOON
    while text not in (found := page(where)):
        assert time.monotonic() < deadline, found[-2000:]
        time.sleep(0.2)
    return found


def test_the_page_of_a_deployed_run_goes_from_waiting_to_the_report(tmp_path: Path) -> None:
    words = ["run", "digits", "--insecure", "--institutions", "2", "--out", "run", "--live", "0"]
    words += [word for setting in SETTINGS for word in ("--set", setting)]
    with running_server(tmp_path, *words) as command:
        where = command.wait_for_line(r"live page at (\S+)")
        token = command.wait_for_line(r"the token of this run is (\S+)")
        address = command.wait_for_line(r"institutions may dial (\S+)")
        waiting = page(where)
        assert "Nothing was asked yet" in waiting
        assert token not in waiting
        with agent(address, token, "north"), agent(address, token, "south"):
            running = page_with(where, "The run goes on")
            assert "of 240" in running
            assert "north" in running
            report = page_with(where, "held-back samples that it never learned from")
            assert command.end() == 0, command.errors
        # The finished page is served once: it may have been the one before.
        if "<main data-finished>" not in report:
            report = page_with(where, "<main data-finished>")
    assert "Student as the ensemble" in report
    assert token not in report
    card = (tmp_path / "run" / "README.md").read_text()
    assert "The coordinator has no test data" in card
    assert "held back from training" in card
