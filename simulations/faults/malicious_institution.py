"""A malicious institution: answers honestly until commanded to violate the protocol.

Vault, ledger, release gate, certificate and token are those of an honest one. One process each.
"""

import contextlib
import queue
import random
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from fedkd.client.config.owner_config import OwnerConfig, load_owner_config
from fedkd.client.institution import Institution, owner_institution
from fedkd.client.ledger.ledger import Ledger
from fedkd.protocol import Ask, Card, Refusal, Reply, Signal
from fedkd.simulations.faults.deployment_files import CLASSES, SHAPE
from fedkd.simulations.faults.fault_kinds import FaultKind
from fedkd.wire import (
    VERSION,
    Answer,
    Close,
    Declined,
    Hello,
    Query,
    Welcome,
    decode_from_coordinator,
    encode,
)
from fedkd.wire.grpc_channels import dial, grpc, open_stream
from fedkd.wire.v1 import teacher_pb2 as pb

RECONNECT_DELAY = 0.3
"""Seconds between two sessions."""
LEAVE_COMMAND = "leave"
"""A command that is no fault: close the session, and do not return in this run."""


def run_malicious_institution(folder: Path, pipe: Connection, seed: int) -> None:
    """Open one session with the coordinator after another, until this process is killed.

    Reports are pairs: an event (ready, welcome, did, closed, status) and its details.

    Args:
        folder: of the institution, with its owner config.
        pipe: receives commands, one kind of fault at a time or "" to cancel it; sends reports.
        seed: of random bytes.
    """
    torch.set_num_threads(1)
    owner = load_owner_config(folder / "owner.toml")
    with contextlib.closing(Ledger(owner.state.ledger)) as ledger:
        malicious = MaliciousInstitution(owner, owner_institution(owner, None, ledger), pipe, seed)
        pipe.send(("ready", ""))
        while True:
            malicious.run_session()
            malicious.wait_for_next_run()
            time.sleep(RECONNECT_DELAY)


class MaliciousInstitution:
    """An institution that can be commanded to violate the protocol.

    Args:
        owner: of the institution.
        institution: answers requests and charges its ledger.
        pipe: see `run_malicious_institution`.
        seed: of random bytes.
    """

    def __init__(
        self, owner: OwnerConfig, institution: Institution, pipe: Connection, seed: int
    ) -> None:
        self._institution, self._pipe, self._rng = institution, pipe, random.Random(seed)
        connection = owner.connection
        if connection is None or connection.server is None:
            raise ValueError("an owner config without a coordinator")
        self._address, self._credentials = connection.server, connection.credentials()
        # Without recipes every request has its images: it never has to render them.
        card = replace(institution.card, recipes=0)
        self._hello = Hello(VERSION, connection.token() or "", card)
        self._command = ""
        self._left = False

    def wait_for_next_run(self) -> None:
        """After it has left: wait until the run is over."""
        while self._left:
            self._left = self._pipe.recv() != ""

    def run_session(self) -> None:
        """One session, from its Hello to its end."""
        outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        with dial(self._address, self._credentials) as channel:
            stream = open_stream(channel, iter(outbox.get, None))
            outbox.put(encode(self._hello))
            try:
                self._exchange(stream, outbox.put)
                self._pipe.send(("status", f"{stream.code().name}: {stream.details()}"))
            except grpc.RpcError:
                self._pipe.send(("status", f"{stream.code().name}: {stream.details()}"))
            finally:
                outbox.put(None)

    def _exchange(self, stream: grpc.Call, send: Callable[[bytes], None]) -> None:
        answered: list[int] = []
        violated = False
        for data in stream:
            match decode_from_coordinator(data):
                case Welcome():
                    self._pipe.send(("welcome", ""))
                case Close(reason):
                    self._pipe.send(("closed", reason))
                case Query(number, request) if not violated:
                    reply = self._institution.answer(request, self._address)
                    valid_answer = _encode_answer(number, reply)
                    while self._pipe.poll():
                        self._command = self._pipe.recv()
                    if self._command == LEAVE_COMMAND:
                        send(valid_answer)
                        send(encode(Close("the institution leaves")))
                        self._pipe.send(("did", LEAVE_COMMAND))
                        self._command, self._left = "", True
                        return
                    violation_due = self._command and (answered or self._command != FaultKind.STALE)
                    if violation_due and isinstance(reply, Reply) and isinstance(request, Ask):
                        for message in self._violation(
                            FaultKind(self._command), number, valid_answer, answered
                        ):
                            send(message)
                        self._pipe.send(("did", self._command))
                        self._command, violated = "", True
                    else:
                        send(valid_answer)
                        answered.append(number)

    def _violation(
        self, kind: FaultKind, number: int, valid_answer: bytes, answered: list[int]
    ) -> list[bytes]:
        """Messages that are sent in place of a valid answer."""
        classes = self._institution.card.classes
        match kind:
            case FaultKind.GARBAGE:
                return [self._rng.randbytes(self._rng.randrange(1, 2000))]
            case FaultKind.SHAPE:
                return [encode_logits(number, torch.zeros(7, classes + 1, dtype=torch.float16))]
            case FaultKind.NAN:
                return [
                    encode_logits(number, torch.full((1, classes), torch.nan, dtype=torch.float16))
                ]
            case FaultKind.DUPLICATE:
                return [valid_answer, valid_answer]
            case FaultKind.STALE:
                older = self._rng.choice(answered)
                return [encode_logits(older, torch.zeros(1, classes, dtype=torch.float16))]
            case _:
                raise ValueError(f"{kind} is no protocol violation")


def encode_logits(number: int, value: torch.Tensor) -> bytes:
    """An answer message that the project's codec would refuse to encode."""
    tensor = pb.Tensor(dtype=pb.DTYPE_FLOAT16, shape=tuple(value.shape))
    reply = pb.Reply(id=number, signals=[pb.Said(signal=pb.SIGNAL_LOGITS, tensor=tensor)])
    payload = [value.numpy().tobytes()]
    return bytes(pb.ConnectRequest(reply=reply, payload=payload).SerializeToString())


def try_to_join(folder: Path, tls: Path, kind: FaultKind, pipe: Connection) -> None:
    """Try to join without valid credentials; reports "in", or how it was refused."""
    owner = load_owner_config(folder / "owner.toml")
    if owner.connection is None or owner.connection.server is None:
        raise ValueError("an owner config without a coordinator")
    expired = kind is FaultKind.CERTIFICATE
    files = ("ca.pem", f"{owner.name}.key", f"{owner.name}{'.expired' if expired else ''}.pem")
    ca, key, chain = ((tls / file).read_bytes() for file in files)
    token = (owner.connection.token() or "") if expired else "a guess"
    card = Card(owner.name, CLASSES, SHAPE, frozenset({Signal.LOGITS}))
    outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    credentials = grpc.ssl_channel_credentials(ca, key, chain)
    with dial(owner.connection.server, credentials) as channel:
        stream = open_stream(channel, iter(outbox.get, None))
        outbox.put(encode(Hello(VERSION, token, card)))
        try:
            reply = decode_from_coordinator(next(stream))
            pipe.send(("in", type(reply).__name__))
        except (grpc.RpcError, StopIteration):
            pipe.send(("refused", f"{stream.code().name}: {stream.details()}"))
        finally:
            outbox.put(None)


def _encode_answer(number: int, reply: Reply | Refusal) -> bytes:
    message = Declined(number, reply) if isinstance(reply, Refusal) else Answer(number, reply)
    return encode(message)
