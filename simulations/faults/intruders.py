"""Processes without a place in the run: wrong credentials, absurd cards, calls never finished.

Each reports what became of its calls, as pairs of a gRPC status and its details.
"""

import asyncio
import queue
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

from fedkd.protocol import Card, Signal
from fedkd.simulations.faults.deployment_files import CLASSES, SHAPE, DeploymentFiles
from fedkd.simulations.faults.fault_kinds import FaultKind
from fedkd.wire import VERSION, Hello, decode_from_coordinator, encode
from fedkd.wire.grpc_channels import METHOD, SERVICE, dial, grpc, open_stream
from fedkd.wire.v1 import teacher_pb2 as pb

JOINED = "JOINED"
"""In the place of a status: the hub has answered the Hello with a message."""
HUB_METHOD, HEALTH_METHOD = f"/{SERVICE}/{METHOD}", "/grpc.health.v1.Health/Check"
UNFINISHED = 288
"""Calls that are begun and never finished: an earlier hub had 272 places, for calls of any kind."""
STREAMS_OF_CONNECTION = 4
"""As many as the hub allows on one connection."""
PAUSE_SECONDS = 2.0
"""Before a call that has ended is begun again."""
LARGE_MESSAGES, LARGE_MESSAGE_BYTES = 8, 58 << 20
"""First messages that are sent with gzip, and bytes of each before that."""
WRONG_TOKEN = "a guess"

Status = tuple[str, str]
"""Name of a gRPC status, and its details."""


def try_to_join(files: DeploymentFiles, name: str, kind: FaultKind, pipe: Connection) -> None:
    """Try to join by a Hello that must be refused; reports the status.

    With an expired certificate the valid one goes first, with a wrong token: where that is heard
    (UNAUTHENTICATED), the coordinator is there, and what refuses the expired one is TLS. Else the
    first status is reported.

    Args:
        files: of the deployment.
        name: whose certificate and token are used.
        kind: of `AUTHENTICATION_FAULTS` or `ABSURD_CARDS`.
        pipe: receives a `Status`.
    """
    card = Card(name, CLASSES, SHAPE, frozenset({Signal.LOGITS}))
    token = (files.institution_folder(name) / "token").read_text().strip()
    guess = encode(Hello(VERSION, WRONG_TOKEN, card))
    if kind is FaultKind.TOKEN:
        pipe.send(_first_status(files, name, guess))
    elif kind is FaultKind.CERTIFICATE:
        heard = _first_status(files, name, guess)
        if heard[0] == grpc.StatusCode.UNAUTHENTICATED.name:
            hello = encode(Hello(VERSION, token, card))
            heard = _first_status(files, name, hello, f"{name}.expired.pem")
            heard = (f"TLS {heard[0]}", heard[1])
        pipe.send(heard)
    else:
        pipe.send(_first_status(files, name, absurd_hello(kind, token, card)))


def absurd_hello(kind: FaultKind, token: str, card: Card) -> bytes:
    """A Hello that the project's codec would refuse to encode."""
    message = pb.ConnectRequest.FromString(encode(Hello(VERSION, token, replace(card))))
    said = message.hello.card
    match kind:
        case FaultKind.CARD_COUNTS:
            said.class_counts.extend([2**64 - 1] * card.classes)
        case FaultKind.CARD_CLASSES:
            said.classes = 1 << 16
        case FaultKind.CARD_SHAPE:
            said.channels = said.height = said.width = 1 << 31
        case _:
            raise ValueError(f"{kind} is no absurd card")
    return bytes(message.SerializeToString())


def _first_status(files: DeploymentFiles, name: str, hello: bytes, certificate: str = "") -> Status:
    """How the coordinator answers a first message."""
    outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    credentials = _credentials(files.tls, name, certificate or f"{name}.pem")
    with dial(files.address, credentials) as channel:
        stream = open_stream(channel, iter(outbox.get, None))
        outbox.put(hello)
        try:
            reply = decode_from_coordinator(next(stream))
            return JOINED, type(reply).__name__
        except (grpc.RpcError, StopIteration):
            return stream.code().name, stream.details()
        finally:
            outbox.put(None)


def begin_calls(files: DeploymentFiles, name: str, kind: FaultKind, pipe: Connection) -> None:
    """Begin more calls than the hub has places, and finish none; again where one is ended.

    Args:
        files: of the deployment.
        name: whose certificate all connections have.
        kind: of `UNFINISHED_CALLS`.
        pipe: receives how many calls are held, and how many ended with each status, as a dict,
            once all were begun.
    """
    method = HUB_METHOD if kind is FaultKind.SILENT else HEALTH_METHOD
    asyncio.run(_hold_calls(files, name, method, pipe))


async def _hold_calls(files: DeploymentFiles, name: str, method: str, pipe: Connection) -> None:
    credentials = _credentials(files.tls, name, f"{name}.pem")
    options = (("grpc.use_local_subchannel_pool", 1),)
    channels = [
        grpc.aio.secure_channel(files.address, credentials, options)
        for _ in range(UNFINISHED // STREAMS_OF_CONNECTION)
    ]
    calls: Counter[str] = Counter()

    async def hold(channel: grpc.aio.Channel) -> None:
        while True:
            call = channel.stream_stream(method)()  # nothing is ever written to it
            calls["held"] += 1
            calls[(await call.code()).name] += 1
            calls["held"] -= 1
            await asyncio.sleep(PAUSE_SECONDS)

    held = [
        asyncio.create_task(hold(one)) for one in channels for _ in range(STREAMS_OF_CONNECTION)
    ]
    await asyncio.gather(*(one.channel_ready() for one in channels))
    await asyncio.sleep(PAUSE_SECONDS)
    pipe.send(dict(calls))
    await asyncio.gather(*held)


def send_compressed(files: DeploymentFiles, name: str, kind: FaultKind, pipe: Connection) -> None:
    """Send first messages of 58 MiB, a few kilobytes with gzip; reports how many ended how.

    Args:
        files: of the deployment.
        name: whose certificate the connection has.
        kind: `FaultKind.COMPRESSED`.
        pipe: receives how many calls ended with each status, as a dict.
    """
    message, ended = bytes(LARGE_MESSAGE_BYTES), Counter[str]()
    credentials = _credentials(files.tls, name, f"{name}.pem")
    for _ in range(LARGE_MESSAGES):
        with dial(files.address, credentials) as channel:
            call = channel.stream_stream(HUB_METHOD)
            stream = call(iter([message]), compression=grpc.Compression.Gzip)
            ended[_end_of(stream)] += 1
    pipe.send(dict(ended))


def _end_of(stream: Iterable[bytes]) -> str:
    """The status with which a stream ends; `JOINED` where a message comes."""
    try:
        next(iter(stream))
        return JOINED
    except (grpc.RpcError, StopIteration):
        return str(stream.code().name)  # type: ignore[attr-defined]  # it is a call too


def _credentials(tls: Path, name: str, certificate: str) -> grpc.ChannelCredentials:
    files = ("ca.pem", f"{name}.key", certificate)
    return grpc.ssl_channel_credentials(*((tls / file).read_bytes() for file in files))
