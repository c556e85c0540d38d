"""Sessions that others ask for neither keep the owner's own out nor hide its end from the owner."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from fedkd.client import daemon
from fedkd.client.institution import Institution, brought_institution
from fedkd.client.sessions.agent import Agent, StopReason
from fedkd.client.sessions.session_manager import MAX_SESSIONS, SessionManager
from fedkd.privacy import Policy
from fedkd.wire import VERSION, Close, Hello, Welcome, decode_from_institution, encode
from fedkd.wire.grpc_channels import METHOD, SERVICE, grpc

SOON = 20.0
OWN = "own"


class Coordinator:
    """Ends the owner's session at a signal, and keeps those with other tokens."""

    def __init__(self) -> None:
        self.end_own, self.leave = threading.Event(), threading.Event()
        self.garbage = False
        self.own_sessions = 0
        self._server = grpc.server(ThreadPoolExecutor(16))
        handlers = {METHOD: grpc.stream_stream_rpc_method_handler(self._session)}
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, handlers),)
        )
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def _session(self, received: Iterator[bytes], _: Any) -> Iterator[bytes]:
        hello = decode_from_institution(next(received))
        assert isinstance(hello, Hello)
        yield encode(Welcome(VERSION))
        if hello.token == OWN:
            self.own_sessions += 1
            self.end_own.wait(SOON)
            self.end_own.clear()
            if self.garbage:
                yield encode(Welcome(VERSION))
        else:
            self.leave.wait(SOON)
        yield encode(Close("the run is over"))

    def stop(self) -> None:
        self.leave.set()
        self.end_own.set()
        self._server.stop(0.2).wait(SOON)


@pytest.fixture
def coordinator() -> Iterator[Coordinator]:
    coordinator = Coordinator()
    yield coordinator
    coordinator.stop()


@pytest.fixture(scope="module")
def institution() -> Institution:
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
    return brought_institution("north", network, Policy(), shape=(1, 4, 4), classes=3)


class Daemon:
    """The waiting of ``fedkd-client serve --stay`` in a thread, with a short pause."""

    def __init__(self, sessions: SessionManager, address: str) -> None:
        self.events: queue.SimpleQueue[Agent | str] = queue.SimpleQueue()
        self.ended: list[StopReason | Exception] = []
        self._words = (sessions, self.events, address, OWN, True)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.ended.append(daemon._wait(*self._words))
        except Exception as error:
            self.ended.append(error)


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + SOON
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def serving(
    coordinator: Coordinator, institution: Institution, monkeypatch: pytest.MonkeyPatch
) -> tuple[SessionManager, Daemon]:
    """A daemon whose own session with the coordinator is open, and its sessions."""
    monkeypatch.setattr(daemon, "PAUSE_SECONDS", 0.2)
    sessions = SessionManager(institution, frozenset({coordinator.address}), None)
    own = Daemon(sessions, coordinator.address)
    until(lambda: coordinator.own_sessions == 1)
    return sessions, own


def test_sessions_of_others_neither_keep_the_owner_out_nor_hide_the_end_of_his(
    coordinator: Coordinator, institution: Institution, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions, own = serving(coordinator, institution, monkeypatch)
    for number in range(MAX_SESSIONS):
        assert sessions.open(coordinator.address, f"other {number}") is None
    refused = sessions.open(coordinator.address, "one more")
    assert refused is not None
    assert f"in {MAX_SESSIONS} sessions" in refused
    coordinator.end_own.set()
    until(lambda: coordinator.own_sessions == 2)
    assert not own.ended
    coordinator.leave.set()
    until(lambda: sessions.count == 1)

    # In the pause another one opens the very session that the owner is about to open.
    monkeypatch.setattr(daemon, "PAUSE_SECONDS", 1.0)
    coordinator.end_own.set()
    until(lambda: sessions.count == 0)
    assert sessions.open(coordinator.address, OWN) is None
    until(lambda: coordinator.own_sessions == 3)
    time.sleep(1.2)
    coordinator.end_own.set()
    until(lambda: coordinator.own_sessions == 4)
    own.events.put("a signal")
    own.thread.join(SOON)
    assert own.ended == [StopReason.STOPPED]
    coordinator.end_own.set()
    sessions.close()


def test_a_coordinator_that_sends_garbage_ends_no_session_with_another(
    coordinator: Coordinator, institution: Institution, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions, own = serving(coordinator, institution, monkeypatch)
    assert sessions.open(coordinator.address, "other") is None
    coordinator.garbage = True
    coordinator.end_own.set()
    until(lambda: coordinator.own_sessions == 2)
    assert not own.ended
    coordinator.leave.set()
    until(lambda: sessions.count == 1)
    coordinator.end_own.set()
    own.thread.join(SOON)
    assert own.ended == [StopReason.REFUSED], "nothing else is open, so the owner is told"
    sessions.close()
