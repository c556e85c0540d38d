"""A malicious institution: answers honestly until commanded to violate the protocol, or to lie.

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
from fedkd.protocol import Ask, PullBack, Refusal, Reply
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


def run_malicious_institution(
    folder: Path, pipe: Connection, seed: int, claim: int | None = None
) -> None:
    """Open one session with the coordinator after another, until this process is killed.

    Reports are pairs: an event (ready, welcome, did, closed, status) and its details.

    Args:
        folder: of the institution, with its owner config.
        pipe: receives commands, one kind of fault at a time or "" to cancel it; sends reports.
        seed: of random bytes.
        claim: training images of each class that its card claims; None: it claims nothing.
    """
    torch.set_num_threads(1)
    owner = load_owner_config(folder / "owner.toml")
    with contextlib.closing(Ledger(owner.state.ledger)) as ledger:
        institution = owner_institution(owner, None, ledger)
        malicious = MaliciousInstitution(owner, institution, pipe, seed, claim)
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
        self,
        owner: OwnerConfig,
        institution: Institution,
        pipe: Connection,
        seed: int,
        claim: int | None = None,
    ) -> None:
        self._institution, self._pipe, self._rng = institution, pipe, random.Random(seed)
        connection = owner.connection
        if connection is None or connection.server is None:
            raise ValueError("an owner config without a coordinator")
        self._address, self._credentials = connection.server, connection.credentials()
        # Without recipes every request has its images: it never has to render them.
        counts = None if claim is None else (claim,) * institution.card.classes
        card = replace(institution.card, recipes=0, class_counts=counts)
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
                    while self._pipe.poll():
                        self._command = self._pipe.recv()
                    if self._command == LEAVE_COMMAND:
                        send(_encode_answer(number, reply))
                        send(encode(Close("the institution leaves")))
                        self._pipe.send(("did", LEAVE_COMMAND))
                        self._command, self._left = "", True
                        return
                    violated = self._obey(send, number, request, reply, answered)

    def _obey(
        self,
        send: Callable[[bytes], None],
        number: int,
        request: Ask | PullBack,
        reply: Reply | Refusal,
        answered: list[int],
    ) -> bool:
        """Answer as the command says; returns whether that violated the protocol."""
        valid_answer, due = _encode_answer(number, reply), False
        if self._command == FaultKind.LYING:
            valid_answer = _encode_answer(number, inverted(reply))
            self._pipe.send(("did", self._command))
        elif self._command:
            due = bool(answered) or self._command != FaultKind.STALE
        if not (due and isinstance(reply, Reply) and isinstance(request, Ask)):
            send(valid_answer)
            answered.append(number)
            return False
        for message in self._violation(FaultKind(self._command), number, valid_answer, answered):
            send(message)
        self._pipe.send(("did", self._command))
        self._command = ""
        return True

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


def inverted(reply: Reply | Refusal) -> Reply | Refusal:
    """The least likely class is the most likely one; a refusal stays what it is."""
    if isinstance(reply, Refusal):
        return reply
    return replace(reply, signals={signal: -value for signal, value in reply.signals.items()})


def _encode_answer(number: int, reply: Reply | Refusal) -> bytes:
    message = Declined(number, reply) if isinstance(reply, Refusal) else Answer(number, reply)
    return encode(message)
