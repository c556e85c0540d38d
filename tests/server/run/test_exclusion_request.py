"""``fedkd-server strike``: an operator excludes an institution while a run goes on."""

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fedkd.client.sessions.agent import Agent, ReconnectPolicy
from fedkd.errors import SettingsError
from fedkd.protocol import Ask, Card, PullBack, Reply, Signal
from fedkd.server.hub.bans import BanReason, Bans, Exclusion
from fedkd.server.report.records.run_folder import RESULT, lock_folder
from fedkd.server.run.checkpoint import BANS, FOLDER
from fedkd.server.run.exclusion_request import request_exclusion
from tests.support.forked_cli import fedkd, run_forked
from tests.support.server_process import SOON, ServerProcess, running_server

SLOW, FAST = 0.5, 0.01
"""Seconds that an answer takes before the operator has struck, and after it."""
struck = threading.Event()
QUICK = ReconnectPolicy(initial_pause=0.05, max_pause=0.2, give_up_after=SOON)
SETTINGS = (
    *("questions.budget=640", "questions.batch=16", "questions.quorum=1"),
    *("student.steps=60", "student.model=mlp"),
)
NAMES = ("north", "south", "liar")


def answer(request: Ask | PullBack) -> Reply:
    struck.wait(SLOW)
    time.sleep(FAST)
    return Reply({Signal.LOGITS: request.images.flatten(1)[:, :10].half()})


class Served:
    """Agents that answer until the block ends, and how each session ended."""

    def __init__(self, address: str, token: str, names: tuple[str, ...]) -> None:
        cards = [Card(name, 10, (1, 8, 8), frozenset({Signal.LOGITS})) for name in names]
        self.ended: dict[str, str] = {}
        self.agents = {c.name: Agent(address, token, c, answer, reconnect=QUICK) for c in cards}
        self.threads = [threading.Thread(target=self._serve, args=(name,)) for name in names]
        for thread in self.threads:
            thread.start()

    def _serve(self, name: str) -> None:
        try:
            self.ended[name] = str(self.agents[name].serve())
        except Exception as error:
            self.ended[name] = str(error)

    def close(self) -> None:
        for each in self.agents.values():
            each.close()
        for thread in self.threads:
            thread.join(SOON)


@contextmanager
def serving(address: str, token: str, *names: str) -> Iterator[Served]:
    served = Served(address, token, names)
    try:
        yield served
    finally:
        served.close()


def events(out: Path) -> list[dict[str, Any]]:
    file = out / "events.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def excluded(out: Path) -> list[tuple[str, str]]:
    return [(e["name"], e["reason"]) for e in events(out) if e["kind"] == "excluded"]


def wait_for_questions(out: Path, count: int, command: ServerProcess) -> None:
    while sum(event["kind"] == "asked" for event in events(out)) < count:
        assert command.process.poll() is None, command.errors
        time.sleep(0.02)


def strike(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return run_forked(["fedkd-server", "strike", *words], folder, timeout=SOON)


def start(folder: Path, *words: str) -> Any:
    return running_server(folder, "run", *words, "--insecure", "--wait", "600")


def test_who_is_struck_off_is_asked_nothing_more_and_the_run_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "run"
    struck.clear()
    words = ["digits", "--institutions", "3", "--out", "run", "--checkpoint", "0"]
    words += [word for setting in SETTINGS for word in ("--set", setting)]
    with start(tmp_path, *words) as command:
        token = command.wait_for_line(r"the token of this run is (\S+)")
        address = command.wait_for_line(r"institutions may dial (\S+)")
        with serving(address, token, *NAMES) as served:
            wait_for_questions(out, 3, command)
            wrong = strike(tmp_path, "run", "liat")
            assert wrong.returncode == 2
            assert "liat takes no part" in wrong.stderr
            assert "liar, north, south" in wrong.stderr
            done = strike(tmp_path, "run", "liar", "--why", "its answers are inverted")
            assert (done.returncode, done.stderr) == (0, "")
            assert "liar is excluded after" in done.stdout
            struck.set()
            wait_for_questions(out, 12, command)
            command.process.kill()
            command.process.wait()
        assert "its answers are inverted" in served.ended["liar"]

    reason = "the operator excluded it: its answers are inverted"
    with start(tmp_path, "--resume", "run") as command:
        address = command.wait_for_line(r"institutions may dial (\S+)")
        with serving(address, token, *NAMES) as served:
            assert command.end() == 0, command.errors
        assert reason in served.ended["liar"]
    assert excluded(out) == [("liar", reason)]
    teachers = json.loads((out / RESULT).read_text())["teachers"]
    asked = {teacher["name"]: teacher["samples_asked"] for teacher in teachers}
    assert asked["north"] == asked["south"] == 640
    assert 48 <= asked["liar"] < 640
    assert "its answers fused out" in (out / "report.html").read_text()


def test_where_no_run_goes_on_it_says_what_to_do_instead(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"holds no experiment\.json"):
        request_exclusion(tmp_path, ["liar"])
    command = "run digits --engine local --out run"
    command += " --set questions.budget=64 --set student.steps=2"
    fedkd(command.split(), tmp_path)
    with pytest.raises(SettingsError, match="in its own process"):
        request_exclusion(tmp_path / "run", ["liar"])
    manifest = tmp_path / "run" / "experiment.json"
    manifest.write_text(manifest.read_text().replace('"engine": "local"', '"engine": "hub"'))
    with pytest.raises(SettingsError, match="is finished"):
        request_exclusion(tmp_path / "run", ["liar"])
    (tmp_path / "run" / RESULT).unlink()
    with pytest.raises(SettingsError, match=r"--resume .*run --without liar"):
        request_exclusion(tmp_path / "run", ["liar"])
    lock = lock_folder(tmp_path / "run")
    assert lock
    with pytest.raises(SettingsError, match="has not begun to ask"):
        request_exclusion(tmp_path / "run", ["liar"])
    assert not (tmp_path / "run" / FOLDER / BANS).exists()


def test_an_exclusion_of_another_process_is_read_and_outranks_a_ban(tmp_path: Path) -> None:
    running, operator = Bans(tmp_path / "bans"), Bans(tmp_path / "bans")
    assert running.refresh() == []
    running.add("rude", BanReason("garbage"))
    assert running.refresh() == []
    operator.add("rude", Exclusion("lies"))
    operator.add("liar", Exclusion("lies"))
    assert sorted(running.refresh()) == ["liar", "rude"]
    running.add("liar", BanReason("garbage"))
    for each in (running, Bans(tmp_path / "bans")):
        assert each.excluded == {"rude": "lies", "liar": "lies"}
        assert len(each) == 2
