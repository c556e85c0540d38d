"""A coordinator that never answers Hello is given up, and does not keep an agent that is closed."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from fedkd.client.sessions.agent import Agent, ReconnectPolicy, StopReason
from fedkd.protocol import Card, Reason, Refusal, Signal
from fedkd.wire import VERSION, Close, Welcome, encode
from fedkd.wire.grpc_channels import METHOD, SERVICE, grpc

CARD = Card("north", 3, (1, 4, 4), frozenset({Signal.LOGITS}))


class Coordinator:
    """Says nothing for the first sessions, and then welcomes."""

    def __init__(self, silent: int) -> None:
        self.silent, self.sessions = silent, 0
        self.stop = threading.Event()

    def session(self, received: Iterator[bytes], _: Any) -> Iterator[bytes]:
        next(received)
        self.sessions += 1
        if self.sessions <= self.silent:
            self.stop.wait(60)
            return
        yield encode(Welcome(VERSION))
        self.stop.wait(1.0)  # longer than an agent waits for the welcome
        yield encode(Close("done"))


@pytest.mark.parametrize(
    ("silent", "give_up_after", "closed", "stop_reason"),
    [
        (1_000, 0.5, False, StopReason.UNREACHABLE),
        (2, 60.0, False, StopReason.FINISHED),
        (1_000, 0.01, True, StopReason.STOPPED),
    ],
)
def test_a_silent_coordinator_is_called_again_and_given_up(
    silent: int, give_up_after: float, closed: bool, stop_reason: StopReason
) -> None:
    coordinator = Coordinator(silent)
    server = grpc.server(ThreadPoolExecutor(8))
    handlers = {METHOD: grpc.stream_stream_rpc_method_handler(coordinator.session)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    patience = ReconnectPolicy(0.01, 0.02, give_up_after, welcome=60.0 if closed else 0.3)
    agent = Agent(
        f"127.0.0.1:{port}", "token", CARD, lambda _: Refusal(Reason.FAILED, ""), reconnect=patience
    )
    thread = threading.Thread(target=agent.serve, daemon=True)
    thread.start()
    try:
        if closed:
            while not coordinator.sessions:
                thread.join(0.02)
            agent.close()
        thread.join(30)
        assert agent.stop_reason is stop_reason
    finally:
        coordinator.stop.set()
        agent.close()
        server.stop(None)
        thread.join(10)
