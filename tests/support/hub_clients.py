"""Clients of a hub for tests: honest agents, a client for raw messages, a relay to cut."""

import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
import torch

from fedkd.client.sessions.agent import Agent, ReconnectPolicy
from fedkd.protocol import Ask, Card, PullBack, Refusal, Reply, Signal
from fedkd.server.hub.hub import Hub
from fedkd.wire import VERSION, Hello, Message, Welcome, decode_from_coordinator, encode
from fedkd.wire.grpc_channels import dial, grpc, open_stream
from fedkd.wire.v1 import teacher_pb2 as pb

TOKEN = "let-me-in"
IMAGES = torch.arange(48, dtype=torch.uint8).view(4, 3, 2, 2)
SOON = 10.0
"""Seconds within which a loaded machine does what takes milliseconds."""
QUICK = ReconnectPolicy(initial_pause=0.02, max_pause=0.1, give_up_after=SOON)


def card(name: str) -> Card:
    return Card(name, 5, (3, 2, 2), frozenset({Signal.LOGITS}), pull_back=True)


def honest_answer(request: Ask | PullBack) -> Reply:
    """The answer of every honest teacher: sums of pixels, and their gradient."""
    sums = request.images.flatten(1).float().sum(1, keepdim=True).expand(-1, 5)
    if isinstance(request, PullBack):
        rows = request.cotangents[Signal.LOGITS].sum(1).view(-1, 1, 1, 1)
        return Reply(gradient=rows.expand(request.images.shape).contiguous())
    return Reply({Signal.LOGITS: sums if request.exact else sums.half()})


def hello(name: str = "north", version: int = VERSION, token: str = TOKEN) -> Hello:
    return Hello(version, token, card(name))


@contextmanager
def agents(hub: Hub, **answers: Callable[[Ask | PullBack], Reply | Refusal]) -> Iterator[None]:
    """Run agents by name, each in a thread, until the block ends."""
    there = [
        Agent(hub.address, TOKEN, card(name), answer, reconnect=QUICK)
        for name, answer in answers.items()
    ]
    threads = [threading.Thread(target=agent.serve) for agent in there]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: answers.keys() <= names(hub))
        yield
    finally:
        for agent in there:
            agent.close()
        for thread in threads:
            thread.join(SOON)
            assert not thread.is_alive()


class RawClient:
    """A client that sends any messages or bytes, and receives the hub's messages."""

    def __init__(self, hub: Hub | str, credentials: grpc.ChannelCredentials | None = None) -> None:
        self.outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.channel = dial(hub if isinstance(hub, str) else hub.address, credentials)
        self.stream = open_stream(self.channel, iter(self.outbox.get, None))

    def send(self, *said: Message | bytes) -> None:
        for each in said:
            self.outbox.put(each if isinstance(each, bytes) else encode(each))

    def receive(self) -> Message:
        return decode_from_coordinator(next(self.stream))

    def status(self) -> tuple[str, str]:
        """How the hub ended the stream."""
        with pytest.raises(grpc.RpcError):
            next(self.stream)
        return self.stream.code().name, self.stream.details()

    def join(self, name: str, token: str = TOKEN) -> None:
        self.send(Hello(VERSION, token, card(name)))
        assert self.receive() == Welcome(VERSION)

    def close(self) -> None:
        self.outbox.put(None)
        self.channel.close()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


def names(hub: Hub) -> set[str]:
    return {card.name for card in hub.cards}


def same_request_to_all(hub: Hub, request: Ask | PullBack) -> dict[str, Ask | PullBack]:
    return dict.fromkeys(names(hub), request)


def encode_answer(number: int, dtype: int, shape: tuple[int, ...], content: bytes) -> bytes:
    tensor = pb.Tensor(dtype=dtype, shape=shape)
    logits = [pb.Said(signal=pb.SIGNAL_LOGITS, tensor=tensor)]
    reply = pb.Reply(id=number, signals=logits)
    return pb.ConnectRequest(reply=reply, payload=[content]).SerializeToString()


HALF = pb.DTYPE_FLOAT16


def shut(end: socket.socket) -> None:
    with suppress(OSError):  # the other end may have been quicker
        end.shutdown(socket.SHUT_RDWR)


class TcpRelay:
    """A TCP port that forwards bytes to a hub, and whose connections can be cut."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._ends: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def to(self, address: str) -> None:
        self._target = address.split(":")
        self._start(self._accept)

    def cut(self) -> None:
        for end in self._ends:
            shut(end)
        self._ends.clear()

    def close(self) -> None:
        shut(self._listener)
        self.cut()
        for thread in self._threads:
            thread.join(SOON)
            assert not thread.is_alive()
        self._listener.close()

    def _start(self, target: Callable[..., None], *args: socket.socket) -> None:
        self._threads.append(threading.Thread(target=target, args=args))
        self._threads[-1].start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection((self._target[0], int(self._target[1])))
            self._ends += [near, far]
            self._start(self._pass_on, near, far)
            self._start(self._pass_on, far, near)

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        for end in (source, sink):
            shut(end)
