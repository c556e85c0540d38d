"""The command of an institution: a real process, a real hub, TLS both ways; one-line mistakes."""

import json
import logging
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
import trustme

from fedkd.client.cli import main
from fedkd.client.config.owner_config import load_owner_config
from fedkd.client.control import framing
from fedkd.client.sessions.agent import Agent, ReconnectPolicy, StopReason
from fedkd.data.datasets import open_data
from fedkd.models import build_network
from fedkd.protocol import Ask, Card, PullBack, Reason, Refusal, Reply, Signal
from fedkd.server.hub.hub import Hub
from fedkd.server.report.records.student_export import save_student
from fedkd.wire.grpc_channels import grpc

ROOT = Path(__file__).parents[2]
SOON = 30.0
TOKEN = "let-me-in"
IMAGES = torch.zeros(6, 1, 8, 8, dtype=torch.uint8)


class Site:
    """An owner's folder, with TLS files of one authority, and the hub's own credentials."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        ca = trustme.CA()
        ca.cert_pem.write_to_path(str(folder / "ca.pem"))
        trustme.CA().cert_pem.write_to_path(str(folder / "strangers.pem"))
        north = ca.issue_cert("north")
        north.cert_chain_pems[0].write_to_path(str(folder / "north.pem"))
        self.secret("north.key", north.private_key_pem.bytes())
        self.secret("token", TOKEN.encode())
        here = ca.issue_cert("127.0.0.1")
        self.credentials = grpc.ssl_server_credentials(
            [(here.private_key_pem.bytes(), here.cert_chain_pems[0].bytes())],
            ca.cert_pem.bytes(),
            True,
        )

    def secret(self, name: str, content: bytes) -> None:
        path = self.folder / name
        path.write_bytes(content)
        path.chmod(0o600)

    def owner(self, server: str, **changes: Any) -> str:
        """An owner's file; ``changes`` replace what stands in its tables."""
        tables: dict[str, Any] = {
            "name": "north",
            "teacher": {"model": "sklearn:LogisticRegression"},
            "data": {"source": "digits", "count": 8},
            "policy": {"signals": ["logits"], "samples": 16, "class_counts": True},
            "connection": {
                "server": server,
                "ca": "ca.pem",
                "certificate": "north.pem",
                "key": "north.key",
                "token_file": "token",
            },
        }
        for name, change in changes.items():
            tables[name] = tables.get(name, {}) | change
        path = self.folder / "owner.toml"
        path.write_text(tomli_w.dumps(tables))
        return str(path)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture
def hub(site: Site) -> Iterator[Hub]:
    with Hub(TOKEN, "127.0.0.1:0", site.credentials) as hub:
        yield hub


@pytest.fixture(autouse=True)
def own_log() -> Iterator[None]:
    """`serve` takes the root logger over, as it may in a process of its own."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = before, level


def typed(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """The exit status of a command."""
    monkeypatch.setattr(sys, "argv", ["fedkd-client", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


OWN = {name: value for name, value in os.environ.items() if not name.startswith("GRPC_")}
"""What an owner's shell has: nothing that quiets gRPC."""


class Process:
    """``fedkd-client serve``, whose log is read as it comes."""

    def __init__(self, *words: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fedkd.client.cli", "serve", *words, "--log", "json"],
            cwd=ROOT,
            env={**OWN, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.events: list[dict[str, Any]] = []
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stderr or ():
            self._lines.put(line)
        self._lines.put("")

    def until(self, event: str) -> dict[str, Any]:
        """Reads the log up to an event. Every line of it must be JSON."""
        deadline = time.monotonic() + SOON
        while line := self._lines.get(timeout=max(0.0, deadline - time.monotonic())):
            self.events.append(json.loads(line))
            if self.events[-1]["event"] == event:
                return self.events[-1]
        raise AssertionError(f"{event} did not happen; {self.events}")

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(SOON)


@contextmanager
def serving(*words: str) -> Iterator[Process]:
    process = Process(*words)
    try:
        yield process
    finally:
        process.process.kill()
        process.process.wait()


def scrape(address: str) -> dict[str, float]:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=SOON) as page:
        lines = page.read().decode().splitlines()
    return {
        name: float(value)
        for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    }


# --- one institution at work


def test_a_process_answers_over_mtls_counts_and_leaves_on_a_signal(
    site: Site, hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    owner = site.owner(hub.address)
    assert typed(monkeypatch, "card", owner, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    with serving(owner, "--metrics", "0") as process:
        banner = process.until("serving")
        (card,) = hub.wait_for(1, SOON)
        heard = {**vars(card), "signals": sorted(card.signals)}
        assert json.loads(json.dumps(heard)) == told, "the card is all that the hub is told"
        asked = [hub.ask({"north": Ask(IMAGES + step)}, SOON) for step in range(3)]
        assert [list(answers) for answers, _ in asked] == [["north"], ["north"], []]
        refusal = asked[2][1]["north"]
        assert isinstance(refusal, Refusal)
        assert refusal.reason is Reason.SPENT
        counted = scrape(banner["metrics"])
        assert counted['fedkd_questions_total{kind="ask"}'] == 3
        assert counted['fedkd_samples_total{kind="ask"}'] == 12
        assert counted['fedkd_refusals_total{reason="spent"}'] == 1
        assert counted["fedkd_answer_seconds_count"] == 3
        assert counted["fedkd_sessions"] == 1
        assert abs(counted["fedkd_last_question_timestamp_seconds"] - time.time()) < SOON
        assert typed(monkeypatch, "serve", owner) == 2
        assert "another fedkd-client works in" in capsys.readouterr().err
        assert process.stop() == 0
        process.until("stopped")
    assert hub.counters["north"].end_reason == "it left: the institution left"
    questions = [each for each in process.events if each["event"] == "question"]
    assert [each.get("refused") for each in questions] == [None, None, "spent"]
    assert banner["metrics"].startswith("127.0.0.1:")
    assert (banner["state"], banner["plain_text"]) == (str(site.folder / "state"), False)
    assert TOKEN not in json.dumps(process.events)
    assert process.process.stdout is not None
    assert process.process.stdout.read() == ""
    assert not (site.folder / "state" / "agent.sock").exists()


def test_without_a_token_it_waits_for_flower_to_ring(
    site: Site, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, socket_path = site.owner(hub.address), site.folder / "state" / "agent.sock"
    Path(owner).write_text(Path(owner).read_text().replace('token_file = "token"\n', ""))
    answers: list[dict[str, Any]] = []

    def flower() -> None:
        try:
            for address in ("127.0.0.1:9", hub.address):
                with socket.socket(socket.AF_UNIX) as line:
                    line.settimeout(SOON)
                    while line.connect_ex(str(socket_path)):
                        time.sleep(0.01)
                    request = {"verb": "session", "address": address, "token": TOKEN}
                    framing.send_json(line, request, SOON)
                    answers.append(framing.receive_json(line, SOON))
            answers.append({"name": hub.wait_for(1, SOON)[0].name})
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=flower)
    thread.start()
    assert typed(monkeypatch, "serve", owner) == 0
    thread.join(SOON)
    assert answers == [
        {"objection": "this institution does not dial that address"},
        {"open": 1},
        {"name": "north"},
    ]


def test_an_answer_that_is_begun_is_given_before_the_agent_leaves() -> None:
    begun = threading.Event()

    def slow(request: Ask | PullBack) -> Reply:
        begun.set()
        time.sleep(0.5)
        return Reply({Signal.LOGITS: torch.zeros(len(request.images), 10).half()})

    with Hub(TOKEN) as hub:
        card = Card("north", 10, (1, 8, 8), frozenset({Signal.LOGITS}))
        agent = Agent(hub.address, TOKEN, card, slow)
        thread = threading.Thread(target=agent.serve)
        thread.start()
        hub.wait_for(1, SOON)
        first, second = (hub.submit("north", Ask(IMAGES)) for _ in range(2))
        assert begun.wait(SOON)
        agent.close()
        thread.join(SOON)
        assert isinstance(first.result(SOON), Reply)
        assert second.exception(SOON) is not None, "no other is begun"
    assert agent.stop_reason is StopReason.STOPPED


# --- how it ends


def test_whoever_is_no_coordinator_is_told_in_our_words_alone(site: Site, hub: Hub) -> None:
    with serving(site.owner(hub.address, connection={"ca": "strangers.pem"})) as process:
        ended = process.until("session_ended")
        assert (ended["ending"], "authority" in ended["reason"]) == ("refused", True)
        assert process.process.wait(SOON) == 3


def test_the_status_says_how_it_ended(
    site: Site, hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    strangers = site.owner(hub.address, connection={"ca": "strangers.pem"})
    assert typed(monkeypatch, "serve", strangers) == 3
    assert "has no certificate of this coordinator's authority" in capsys.readouterr().err

    elsewhere = site.owner(hub.address.replace("127.0.0.1", "localhost"))
    assert typed(monkeypatch, "serve", elsewhere) == 3, "the certificate names another host"

    site.secret("token", b"a guess")
    assert typed(monkeypatch, "serve", site.owner(hub.address)) == 3
    assert "the token is not of this run" in capsys.readouterr().err

    site.secret("token", TOKEN.encode())
    threading.Thread(target=lambda: (hub.wait_for(1, SOON), hub.close())).start()
    assert typed(monkeypatch, "serve", site.owner(hub.address)) == 0
    assert "the run is over" in capsys.readouterr().err

    monkeypatch.setattr("fedkd.client.sessions.session_manager.Agent", impatient)
    assert typed(monkeypatch, "serve", site.owner("127.0.0.1:9")) == 4
    assert "the coordinator is gone: nobody listens on 127.0.0.1:9" in capsys.readouterr().err


def test_who_speaks_otherwise_is_told_so_in_a_line(
    site: Site,
    hub: Hub,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("fedkd.client.sessions.session_manager.Agent", impatient)
    path = Path(site.owner(hub.address))
    tables = tomllib.loads(path.read_text())
    tls = {k: tables["connection"].pop(k) for k in ("ca", "certificate", "key")}
    tables["connection"]["insecure"] = True
    path.write_text(tomli_w.dumps(tables))
    assert typed(monkeypatch, "serve", path) == 4
    assert (
        f"gone: {hub.address} closed the connection at once: it wants TLS"
        in capsys.readouterr().err
    )

    with Hub(TOKEN) as plain:
        assert typed(monkeypatch, "serve", site.owner(plain.address, connection=tls)) == 4
    assert f"gone: {plain.address} speaks plain text, and we speak TLS" in capsys.readouterr().err


def impatient(*words: Any, **others: Any) -> Agent:
    """An agent that gives up after half a second, as the real one does after ten minutes."""
    return Agent(*words[:-1], ReconnectPolicy(0.01, 0.05, 0.5), **others)


def test_one_that_stays_dials_again_when_a_run_is_over(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedkd.client.daemon.PAUSE_SECONDS", 0.1)
    first = Hub(TOKEN, "127.0.0.1:0", site.credentials)
    came: list[str] = []

    def two_runs() -> None:
        came.extend(card.name for card in first.wait_for(1, SOON))
        first.close()
        with Hub(TOKEN, first.address, site.credentials) as second:
            came.extend(card.name for card in second.wait_for(1, SOON))
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)

    thread = threading.Thread(target=two_runs)
    thread.start()
    assert typed(monkeypatch, "serve", site.owner(first.address), "--stay") == 0
    thread.join(SOON)
    assert came == ["north", "north"]


# --- the ledger


def asked_while_serving(
    monkeypatch: pytest.MonkeyPatch, hub: Hub, owner: str, *asks: Ask
) -> list[Refusal | str | None]:
    """What became of questions to one ``serve``; None where they were answered."""
    outcomes: list[Refusal | str | None] = []

    def coordinate() -> None:
        try:
            hub.wait_for(1, SOON)
            outcomes.extend(hub.ask({"north": ask}, SOON)[1].get("north") for ask in asks)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=coordinate)
    thread.start()
    assert typed(monkeypatch, "serve", owner) == 0
    thread.join(SOON)
    return outcomes


def test_a_ledger_that_was_deleted_is_missed_at_the_next_start(
    site: Site, hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    owner = site.owner(hub.address)
    assert asked_while_serving(monkeypatch, hub, owner, Ask(IMAGES)) == [None]
    for file in site.folder.rglob("ledger.sqlite*"):
        file.unlink()
    capsys.readouterr()
    for command in (["serve"], ["card"], ["ledger", "show"], ["ledger", "verify"]):
        assert typed(monkeypatch, *command, owner) == 2
        told = capsys.readouterr().err
        assert "it is missing, and had 1 row;" in told
        assert told.count("\n") == 1, told
    assert not [*site.folder.rglob("ledger.sqlite")]
    assert typed(monkeypatch, "ledger", "reset", owner) == 0
    assert "this is row 1 now" in capsys.readouterr().out
    assert typed(monkeypatch, "ledger", "reset", owner) == 2
    assert "nothing to reset" in capsys.readouterr().err
    assert asked_while_serving(monkeypatch, hub, owner, Ask(IMAGES)) == [None]
    assert typed(monkeypatch, "ledger", "verify", owner) == 0


def test_what_was_spent_stays_spent_and_is_shown(
    site: Site, hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    owner, out = site.owner(hub.address), site.folder / "rows.jsonl"
    assert typed(monkeypatch, "ledger", "show", owner) == 2
    assert "nothing was asked yet" in capsys.readouterr().err
    two = [Ask(IMAGES + step) for step in range(2)]
    assert asked_while_serving(monkeypatch, hub, owner, *two) == [None, None]
    (again,) = asked_while_serving(monkeypatch, hub, owner, Ask(IMAGES + 2))
    assert isinstance(again, Refusal)
    assert again.reason is Reason.SPENT, "the budget outlives the process"

    assert typed(monkeypatch, "ledger", "show", owner, "--last", "2") == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "12 of 16 samples are spent, 1 query was refused"
    assert told[1].endswith(": 12 images were answered without any guarantee")
    assert told[2].split() == [
        *("row", "time", "server", "kind", "signals", "images", "micro-rho", "decision")
    ]
    assert told[3].index(hub.address) == told[2].index("server")
    assert told[4].endswith("refused spent")
    assert told[4].index("refused") == told[2].index("decision")
    assert told[5:] == ["2 of 3 rows are shown, the latest; --last N shows N"]
    assert typed(monkeypatch, "ledger", "show", owner) == 0
    assert len(capsys.readouterr().out.splitlines()) == 6, "all three, and no hint"
    assert typed(monkeypatch, "ledger", "show", owner, "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["rows"]) == 3

    assert typed(monkeypatch, "ledger", "verify", owner) == 0
    noted = capsys.readouterr().out.splitlines()[-1]
    assert typed(monkeypatch, "ledger", "verify", owner, "--noted", noted) == 0
    assert typed(monkeypatch, "ledger", "verify", owner, "--noted", f"3:{'0' * 64}") == 2
    assert "not the one that was noted" in capsys.readouterr().err
    assert typed(monkeypatch, "ledger", "export", owner, out) == 0
    assert [json.loads(line)["cost"] for line in out.read_text().splitlines()] == [6, 6, 0]
    assert typed(monkeypatch, "ledger", "export", owner, out) == 2
    capsys.readouterr()
    assert typed(monkeypatch, "ledger", "export", owner) == 2
    assert capsys.readouterr().err == "fedkd-client: Missing argument 'OUT'; see --help\n"
    copied = site.folder / "backup.sqlite"
    assert typed(monkeypatch, "ledger", "backup", owner, copied) == 0
    assert capsys.readouterr().out.splitlines()[-1] == noted
    assert typed(monkeypatch, "ledger", "backup", owner, copied) == 2


# --- the other commands


def test_a_file_to_start_from_is_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert typed(monkeypatch, "init", tmp_path / "o.toml") == 0
    assert load_owner_config(tmp_path / "o.toml").name == "north"
    assert typed(monkeypatch, "init", tmp_path / "o.toml") == 2
    assert "File exists" in capsys.readouterr().err


def test_teach_keeps_what_serve_will_find(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    owner = site.owner("127.0.0.1:9", teacher={"model": "mlp", "epochs": 1})
    assert typed(monkeypatch, "teach", owner) == 0
    assert "a teacher of 10 classes for images of 1x8x8 is ready" in capsys.readouterr().out
    weights = site.folder / "state" / "teacher" / "teacher.safetensors"
    written = weights.stat().st_mtime_ns
    assert typed(monkeypatch, "card", owner) == 0
    assert weights.stat().st_mtime_ns == written


def test_a_student_is_scored_for_the_owners_eyes(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    student = build_network("mlp", 10, (1, 8, 8), seed=0)
    save_student(student, site.folder, (1, 8, 8), {"student": "mlp", "classes": "10"})
    file, owner = site.folder / "student.safetensors", site.owner("127.0.0.1:9")
    assert typed(monkeypatch, "score", owner, file, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    data = open_data("digits")
    own = data.test_images[::8].float() / 255
    right = int((student.eval()(own).argmax(1) == data.test_labels[::8]).sum())
    assert told == {"right": right, "of": 45, "accuracy": right / 45}
    assert typed(monkeypatch, "score", owner, file) == 0
    assert capsys.readouterr().out == f"{right} of 45 right: {right / 45:.2%}\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("card", "none.toml"), "cannot read none.toml"),
        (("serve", "OWNER", "--server", "127.0.0.1"), "expected host:port"),
        (("serve", "OWNER", "--log", "xml"), "choose one of text, json"),
        (("serve", "OWNER", "--metrics", "here"), "expected a port"),
        (("serve", "OWNER", "--bogus"), "No such option"),
        (("serv", "OWNER"), "Did you mean 'serve'?"),
        (("card",), "Missing argument 'OWNER'"),
        (("score", "OWNER", "OWNER"), "is no student of fedkd's"),
    ],
)
def test_a_mistake_is_one_line_and_status_two(
    words: tuple[str, ...],
    says: str,
    site: Site,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(site.folder)
    owner = site.owner("127.0.0.1:9")
    assert typed(monkeypatch, *(owner if word == "OWNER" else word for word in words)) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert errors[0].startswith("fedkd-client: ")
    assert says in errors[0]


def test_a_server_that_the_policy_does_not_name_is_not_dialled(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as trap:
        trap.settimeout(0.2)
        address = "{}:{}".format(*trap.getsockname())
        owner = site.owner("127.0.0.1:9", policy={"servers": ["127.0.0.1:9"]})
        assert typed(monkeypatch, "serve", owner, "--server", address) == 2
        assert "the policy decides" in capsys.readouterr().err
        with pytest.raises(TimeoutError):
            trap.accept()


def test_help_does_not_wait_for_torch() -> None:
    code = (
        "import sys; sys.argv = ['fedkd-client', 'serve', '--help']\n"
        "from fedkd.client.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "slow = {'torch', 'grpc', 'flwr', 'pydantic', 'numpy'} & set(sys.modules)\n"
        "assert not slow, slow\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--metrics" in done.stdout
