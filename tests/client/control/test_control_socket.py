"""The control socket gives what the policy allows, whoever connects."""

import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from fedkd.client.config.owner_config import load_owner_config
from fedkd.client.control import framing
from fedkd.client.control.server import MAX_CONNECTIONS, ControlServer
from fedkd.client.institution import Institution, owner_institution
from fedkd.client.institution.student_weight_loading import build_student, max_weights_bytes
from fedkd.client.sessions.agent import ReconnectPolicy
from fedkd.client.sessions.session_manager import MAX_SESSIONS, SessionManager
from fedkd.errors import RemoteProtocolError, SettingsError
from fedkd.models import build_network
from fedkd.protocol import Ask
from fedkd.server.hub.hub import Hub

SOON = 10.0
TOKEN = "let-me-in"
SHAPE = [1, 8, 8]
OWNER = """
name = "north"
[teacher]
model = "sklearn:LogisticRegression"
[data]
source = "digits"
count = 8
[policy]
signals = ["logits"]
samples = 64
scores = {scores}
examinations = 3
"""


def institution(folder: Path, scores: bool) -> Institution:
    folder.mkdir(exist_ok=True)
    (folder / "owner.toml").write_text(OWNER.format(scores=str(scores).lower()))
    return owner_institution(load_owner_config(folder / "owner.toml"))


@pytest.fixture(scope="module")
def open_handed(tmp_path_factory: pytest.TempPathFactory) -> Institution:
    """Tells scores."""
    return institution(tmp_path_factory.mktemp("open"), scores=True)


@pytest.fixture(scope="module")
def close_lipped(tmp_path_factory: pytest.TempPathFactory) -> Institution:
    """Does not."""
    return institution(tmp_path_factory.mktemp("close"), scores=False)


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with Hub(TOKEN) as hub:
        yield hub


@contextmanager
def hung(institution: Institution, path: Path, *servers: str) -> Iterator[Path]:
    """A control server at this path, with sessions behind it."""
    patience = ReconnectPolicy(initial_pause=0.02, max_pause=0.1, give_up_after=60)
    sessions = SessionManager(institution, frozenset(servers), None, reconnect=patience)
    try:
        with ControlServer(path, institution, sessions):
            yield path
    finally:
        sessions.close()
    assert not path.exists()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "agent.sock"


def send_request(path: Path, weights: bytes | None = None, **request: Any) -> dict[str, Any]:
    """A valid request."""
    with framing.connect(str(path), 3 * SOON) as line:
        framing.send_json(line, request, SOON)
        answer = framing.receive_json(line, SOON)
        if "go" in answer and weights is not None:
            framing.send_frame(line, weights, SOON)
            answer = framing.receive_json(line, SOON)
        with suppress(ConnectionError):
            assert line.recv(1) == b"", "one request, one answer"
        return answer


def shout(path: Path, content: bytes) -> dict[str, Any] | None:
    """Whatever bytes, and what is said to them."""
    with framing.connect(str(path), 3 * SOON) as line, suppress(OSError, RemoteProtocolError):
        line.sendall(content)
        line.shutdown(socket.SHUT_WR)
        return framing.receive_json(line, SOON)
    return None


def framed(content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + content


def answers(path: Path) -> bool:
    """Whether the server answers a lawful request: for a session with a stranger."""
    answer = send_request(path, verb="session", address="127.0.0.1:9", token="t")
    return answer == {"objection": "this institution does not dial that address"}


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def students() -> dict[str, torch.Tensor]:
    return build_student("mlp", 10, (1, 8, 8)).state_dict()


EVALUATE = {"verb": "evaluate", "model": "mlp", "classes": [*"0123456789"], "shape": SHAPE}


# --- valid requests


def test_a_request_has_an_allowed_coordinator_dialled_once(
    close_lipped: Institution, path: Path, hub: Hub
) -> None:
    with hung(close_lipped, path, hub.address):
        session = {"verb": "session", "address": hub.address, "token": TOKEN}
        for _ in range(3):
            assert send_request(path, **session) == {"open": 1}
        assert [card.name for card in hub.wait_for(1, SOON)] == ["north"]
        assert [t.name for t in threading.enumerate()].count("fedkd-agent") == 1
        images = torch.zeros(5, *SHAPE, dtype=torch.uint8)
        answers, _ = hub.ask({"north": Ask(images)}, SOON)
        assert answers.keys() == {"north"}
    until(lambda: not hub.cards)


def test_a_student_is_evaluated_where_scores_are_released(
    open_handed: Institution, path: Path
) -> None:
    student = build_student("mlp", 10, (1, 8, 8))
    with hung(open_handed, path):
        answer = send_request(path, save(student.state_dict()), **EVALUATE)
    truth = open_handed.score(student)
    assert truth is not None
    assert answer == {"score": list(truth)}


def test_no_student_is_even_read_where_scores_are_not_released(
    close_lipped: Institution, path: Path
) -> None:
    with hung(close_lipped, path):
        assert send_request(path, b"", **EVALUATE) == {"score": None}


def test_so_many_students_are_evaluated_and_no_more(tmp_path: Path, path: Path) -> None:
    with hung(institution(tmp_path / "own", scores=True), path):
        sat = [save(build_network("mlp", 10, (1, 8, 8), seed).state_dict()) for seed in range(4)]
        scores = [send_request(path, student, **EVALUATE) for student in (*sat[:3], sat[0])]
        assert scores[0] == scores[3], "the same one again is no further one"
        assert all("score" in answer for answer in scores)
        answer = send_request(path, sat[3], **EVALUATE)
        assert answer == {"objection": "all 3 examinations of students are spent here"}


# --- what is not


def test_nobody_is_dialled_whom_the_owner_does_not_name(
    close_lipped: Institution, path: Path, hub: Hub
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as trap, hung(close_lipped, path, hub.address):
        trap.settimeout(0.3)
        host, port = trap.getsockname()
        for address in (f"{host}:{port}", f"localhost:{port}", f"{hub.address} ", "", "unix:/x"):
            answer = send_request(path, verb="session", address=address, token=TOKEN)
            assert answer == {"objection": "this institution does not dial that address"}
        with pytest.raises(TimeoutError):
            trap.accept()
        assert (
            "token"
            in send_request(path, verb="session", address=hub.address, token="")["objection"]
        )
        assert not hub.cards


def test_so_many_sessions_and_no_more(close_lipped: Institution, path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = "{}:{}".format(*silent.getsockname())
        with hung(close_lipped, path, address):
            answers = [
                send_request(path, verb="session", address=address, token=f"t{i}")
                for i in range(MAX_SESSIONS + 2)
            ]
    assert answers[:MAX_SESSIONS] == [{"open": 1}] * MAX_SESSIONS
    assert all("takes no more" in answer["objection"] for answer in answers[MAX_SESSIONS:])


def wrong_students() -> dict[str, bytes]:
    right = students()
    name = next(iter(right))
    nan = {**right, name: torch.full_like(right[name], float("nan"))}
    whole = save(right)
    return {
        "garbage": os.urandom(1000),
        "empty": b"",
        "cut": whole[:-4],
        "header": struct.pack("<Q", 2**63) + b"{}",
        "another": save(build_student("mlp", 3, (1, 8, 8)).state_dict()),
        "fewer": save({name: right[name]}),
        "nan": save(nan),
        "pickle": b"\x80\x04cos\nsystem\n(S'false'\ntR.",
    }


def test_a_student_that_is_none_is_refused_in_words_of_ours(
    open_handed: Institution, path: Path
) -> None:
    with hung(open_handed, path):
        for what, content in wrong_students().items():
            answer = send_request(path, content, **EVALUATE)
            assert answer["objection"] in (
                "these are not the weights of that model",
                "weights that are not finite",
            ), what
        for changes, says in (
            ({"model": "mpl"}, "a network that is not installed here"),
            ({"model": "../../etc/passwd"}, "a network that is not installed here"),
            ({"classes": ["x"] * 10_001}, "expected 1 to 10000"),
            ({"classes": []}, "expected 1 to"),
            ({"shape": [1, 9, 9]}, "expected (1, 8, 8)"),
        ):
            assert says in send_request(path, b"", **{**EVALUATE, **changes})["objection"]
        score = send_request(path, save(students()), **EVALUATE)["score"]
    assert score[1] == 45


def test_a_student_may_be_no_larger_than_its_network(open_handed: Institution, path: Path) -> None:
    limit = max_weights_bytes(build_student("mlp", 10, (1, 8, 8)))
    with hung(open_handed, path), framing.connect(str(path), SOON) as line:
        framing.send_json(line, EVALUATE, SOON)
        assert framing.receive_json(line, SOON) == {"go": limit}
        line.sendall(struct.pack(">I", limit + 1))
        assert "at most" in framing.receive_json(line, SOON)["objection"]


def test_one_student_at_a_time(open_handed: Institution, path: Path) -> None:
    with hung(open_handed, path):
        with framing.connect(str(path), 3 * SOON) as slow:
            framing.send_json(slow, EVALUATE, SOON)
            assert "go" in framing.receive_json(slow, SOON)
            assert "come back later" in send_request(path, b"", **EVALUATE)["objection"]
        until(lambda: "score" in send_request(path, save(students()), **EVALUATE))


UNLAWFUL = [
    framed(b"{}"),
    framed(b"[]"),
    framed(b"null"),
    framed(b""),
    framed(b"\xff\xfe"),
    framed(b"[" * 60_000),
    framed(b'{"verb": ' + b"9" * 50_000 + b"}"),
    framed(json.dumps({"verb": "ledger"}).encode()),
    framed(json.dumps({"verb": "card"}).encode()),
    framed(json.dumps({"verb": ["session"]}).encode()),
    framed(json.dumps({"verb": "session"}).encode()),
    framed(json.dumps({"verb": "session", "address": 5, "token": None}).encode()),
    framed(json.dumps({"verb": "evaluate", "model": "mlp"}).encode()),
    framed(json.dumps({**EVALUATE, "shape": [1, 8]}).encode()),
    struct.pack(">I", 2**32 - 1) + bytes(100),
    struct.pack(">I", 100) + b"half",
    b"GET / HTTP/1.1\r\n\r\n",
    b"",
]


def test_what_is_unlawful_gets_a_sentence_and_nothing_else(
    open_handed: Institution, path: Path
) -> None:
    with hung(open_handed, path):
        for content in UNLAWFUL:
            answer = shout(path, content)
            assert answer is not None
            assert list(answer) == ["objection"], content[:40]
            said = answer["objection"]
            assert str(path.parent) not in said
            assert "Error" not in said
            assert len(said) <= 500
        assert answers(path)


def test_no_bytes_get_more_than_an_error(open_handed: Institution, path: Path) -> None:
    with hung(open_handed, path):

        @settings(max_examples=60, deadline=None)
        @given(st.one_of(st.binary(max_size=200), st.binary(max_size=200).map(framed)))
        def nothing(content: bytes) -> None:
            answer = shout(path, content)
            assert answer is not None
            assert answer.keys() == {"objection"}

        nothing()


def test_a_hostile_bundle_harms_nobody_else(
    close_lipped: Institution, path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half frames that hang, floods of requests, all of the above at once; then a valid request."""
    monkeypatch.setattr("fedkd.client.control.server.TIMEOUT_SECONDS", 0.5)
    before = threading.active_count()
    with hung(close_lipped, path, hub.address):
        hanging: list[socket.socket] = []
        heard: list[dict[str, Any] | None] = []
        for _ in range(3 * MAX_CONNECTIONS):  # more than are heard at once
            line = socket.socket(socket.AF_UNIX)
            line.setblocking(False)
            with suppress(BlockingIOError):
                line.connect(str(path))
                line.send(b"\x00\x00")
            hanging.append(line)

        def hammer() -> None:
            for content in UNLAWFUL * 2:
                heard.append(shout(path, content))
            for _ in range(5):
                assert send_request(path, **EVALUATE) == {"score": None}

        crowd = [threading.Thread(target=hammer) for _ in range(4)]
        for thread in crowd:
            thread.start()
        for thread in crowd:
            thread.join(3 * SOON)
            assert not thread.is_alive()
        assert len(heard) == 4 * 2 * len(UNLAWFUL)
        assert all(answer is None or "objection" in answer for answer in heard)
        assert threading.active_count() <= before + MAX_CONNECTIONS + 1
        session = {"verb": "session", "address": hub.address, "token": TOKEN}
        assert send_request(path, **session) == {"open": 1}
        assert [card.name for card in hub.wait_for(1, SOON)] == ["north"]
        for line in hanging:
            line.close()
    until(lambda: not hub.cards)


def test_a_drip_of_bytes_does_not_outlast_its_time() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(struct.pack(">I", 1000))
        stop = threading.Event()

        def drip() -> None:
            while not stop.wait(0.05):
                theirs.send(b"x")

        thread = threading.Thread(target=drip)
        thread.start()
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            framing.receive_frame(ours, 2000, 0.4)
        assert time.monotonic() - began < 2
        stop.set()
        thread.join()


# --- where it hangs


def test_nobody_but_the_owner_reaches_the_socket(close_lipped: Institution, path: Path) -> None:
    with hung(close_lipped, path):
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_group_may_be_let_near_the_socket_alone(close_lipped: Institution, path: Path) -> None:
    import grp

    group = grp.getgrgid(os.getgid()).gr_name
    sessions = SessionManager(close_lipped, frozenset(), None)
    with ControlServer(path, close_lipped, sessions, group):
        assert path.stat().st_mode & 0o777 == 0o660
        assert path.parent.stat().st_mode & 0o777 == 0o710
        assert answers(path)
    with pytest.raises(SettingsError, match="no such group"):
        ControlServer(path, close_lipped, sessions, "no-such-group")


def test_where_no_socket_can_be_is_told_in_one_line(
    close_lipped: Institution, tmp_path: Path
) -> None:
    sessions = SessionManager(close_lipped, frozenset(), None)

    def refused(path: Path) -> str:
        with pytest.raises(SettingsError) as error:
            ControlServer(path, close_lipped, sessions)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "the system takes 107" in refused(tmp_path / ("d" * 100) / "agent.sock")
    shared, own = tmp_path / "shared", tmp_path / "own"
    shared.mkdir(mode=0o755)
    own.mkdir(mode=0o700)
    assert "chmod 700" in refused(shared / "agent.sock")
    (own / "a.sock").write_text("precious")
    assert "is no socket" in refused(own / "a.sock")
    assert (own / "a.sock").read_text() == "precious"
    with hung(close_lipped, own / "b.sock"):
        assert "another agent listens" in refused(own / "b.sock")
        assert answers(own / "b.sock")


def test_the_socket_of_a_killed_agent_is_replaced(close_lipped: Institution, path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with hung(close_lipped, path):
        assert answers(path)


def test_a_request_in_progress_is_answered_before_the_server_is_gone(
    close_lipped: Institution, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = threading.Event()

    class Slow:
        def open(self, address: str, token: str) -> None:
            begun.set()
            time.sleep(0.7)

    server = ControlServer(path, close_lipped, cast(SessionManager, Slow()))
    with framing.connect(str(path), SOON) as line:
        framing.send_json(line, {"verb": "session", "address": "a:1", "token": "t"}, SOON)
        assert begun.wait(SOON)
        server.close()
        line.setblocking(False)  # the answer is there by now
        assert line.recv(64)
    server.close()
    # Who never ends is not waited for for ever.
    monkeypatch.setattr("fedkd.client.control.server.CLOSE_SECONDS", 0.3)
    monkeypatch.setattr("fedkd.client.control.server.TIMEOUT_SECONDS", 120.0)
    began = time.monotonic()
    server = ControlServer(path, close_lipped, cast(SessionManager, Slow()))
    with socket.socket(socket.AF_UNIX) as silent, server:
        silent.connect(str(path))
        time.sleep(0.5)  # until it is accepted
    assert time.monotonic() - began < 60


def test_sessions_end_with_their_hub(close_lipped: Institution) -> None:
    ended: list[object] = []
    with Hub(TOKEN) as hub:
        sessions = SessionManager(close_lipped, frozenset({hub.address}), None)
        assert (
            sessions.open(hub.address, TOKEN, lambda agent: ended.append(agent.stop_reason)) is None
        )
        hub.wait_for(1, SOON)
    until(lambda: bool(ended))
    assert ended == ["over"]
    sessions.close()
    assert "leaving" in (sessions.open(hub.address, TOKEN) or "")
