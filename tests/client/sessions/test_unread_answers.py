"""A coordinator that asks and does not read gets no further answers, and ends nothing else."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch

from fedkd.client.sessions.agent import Agent, StopReason
from fedkd.protocol import Ask, Card, PullBack, Reply, Signal
from fedkd.wire import VERSION, Close, Query, Welcome, encode
from fedkd.wire.grpc_channels import METHOD, SERVICE, grpc

QUERIES, DIMENSIONS = 30, 2048
IMAGES = torch.zeros(512, 1, 4, 4, dtype=torch.uint8)
CARD = Card(
    name="north",
    classes=3,
    shape=(1, 4, 4),
    signals=frozenset({Signal.FEATURES}),
    pull_back=False,
    samples=100_000,
    largest_batch=4096,
)


def until(holds: Callable[[], bool]) -> None:
    """Wait for it, at most 20 seconds."""
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


class Coordinator:
    """Sends all its queries at once, and reads answers when it may."""

    def __init__(self) -> None:
        self.may_read, self.leave = threading.Event(), threading.Event()
        self.read = 0

    def session(self, received: Iterator[bytes], _: Any) -> Iterator[bytes]:
        next(received)
        yield encode(Welcome(VERSION))
        for number in range(1, QUERIES + 1):
            yield encode(Query(number, Ask(IMAGES, frozenset({Signal.FEATURES}), exact=True)))
            if number % 2 == 0 and self.may_read.is_set():
                self.read += len([next(received), next(received)])
        self.leave.wait(20)
        yield encode(Close("done"))


@contextmanager
def agent_of(coordinator: Coordinator) -> Iterator[tuple[Agent, list[int], threading.Thread]]:
    """An agent in a session with ``coordinator``, how often it has answered, and its thread."""
    answered = [0]

    def answer(_: Ask | PullBack) -> Reply:
        answered[0] += 1
        return Reply({Signal.FEATURES: torch.full((len(IMAGES), DIMENSIONS), 1.0)})  # 4 MiB

    unlimited = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
    server = grpc.server(ThreadPoolExecutor(2), options=unlimited)
    handlers = {METHOD: grpc.stream_stream_rpc_method_handler(coordinator.session)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    agent = Agent(f"127.0.0.1:{port}", "token", CARD, answer)
    thread = threading.Thread(target=agent.serve, daemon=True)
    thread.start()
    try:
        yield agent, answered, thread
    finally:
        coordinator.leave.set()
        agent.close()
        server.stop(None)
        thread.join(10)


def test_who_does_not_read_gets_no_further_answers_and_the_agent_can_leave() -> None:
    with agent_of(Coordinator()) as (agent, answered, thread):
        until(lambda: answered[0] >= 2)
        time.sleep(2.0)
        assert answered[0] <= 6, "what gRPC itself keeps, and two more"
        began = time.monotonic()
        agent.close()
        thread.join(10)
        assert not thread.is_alive()
        assert time.monotonic() - began < 8
        assert agent.stop_reason is StopReason.STOPPED


def test_who_reads_gets_every_answer() -> None:
    coordinator = Coordinator()
    coordinator.may_read.set()
    with agent_of(coordinator) as (agent, answered, thread):
        until(lambda: coordinator.read == QUERIES)
        assert answered[0] == QUERIES
        coordinator.leave.set()
        thread.join(10)
        assert agent.stop_reason is StopReason.FINISHED
