"""Institutions that turn bad: honest until they are told, then rude on the wire. One process each.

Everything but the last word is an institution's own: vault, ledger, door, certificate, token.
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

from fedkd.client.config.owner_config import OwnerConfig, load
from fedkd.client.institution import Institution, owned
from fedkd.client.ledger.ledger import Ledger
from fedkd.protocol import Ask, Card, Refusal, Reply, Signal
from fedkd.simulations.faults.deployment_files import CLASSES, SHAPE
from fedkd.simulations.faults.fault_kinds import Kind
from fedkd.wire import (
    VERSION,
    Answer,
    Close,
    Declined,
    Hello,
    Question,
    Welcome,
    decode_from_coordinator,
    encode,
)
from fedkd.wire.channel import call, dial, grpc
from fedkd.wire.v1 import teacher_pb2 as pb

AGAIN = 0.3
"""Seconds between two visits."""
LEAVE = "leave"
"""An order that is no fault: to go in peace, and not to come back in this run."""


def live(folder: Path, told: Connection, seed: int) -> None:
    """Visit a coordinator again and again, until this process is killed.

    Reports are pairs: what happened (welcome, did, closed, status) and what was heard of it.

    Args:
        folder: of the institution, with its owner's file.
        told: brings names of kinds, one at a time, "" to take one back; takes reports.
        seed: of the rubbish.
    """
    torch.set_num_threads(1)
    owner = load(folder / "owner.toml")
    with contextlib.closing(Ledger(owner.state.ledger)) as ledger:
        saboteur = Saboteur(owner, owned(owner, None, ledger), told, seed)
        told.send(("ready", ""))
        while True:
            saboteur.visit()
            saboteur.stay_away()
            time.sleep(AGAIN)


class Saboteur:
    """One institution that can be told to sin.

    Args:
        owner: of the institution.
        institution: answers, and charges what it answers.
        told: see `live`.
        seed: of the rubbish.
    """

    def __init__(
        self, owner: OwnerConfig, institution: Institution, told: Connection, seed: int
    ) -> None:
        self._institution, self._told, self._rng = institution, told, random.Random(seed)
        connection = owner.connection
        if connection is None or connection.server is None:
            raise ValueError("an owner's file without a coordinator")
        self._address, self._credentials = connection.server, connection.credentials()
        # It has every question shown to it: to sin, it needs to draw nothing.
        card = replace(institution.card, recipes=0)
        self._hello = Hello(VERSION, connection.token() or "", card)
        self._order = ""
        self._away = False

    def stay_away(self) -> None:
        """Where it left: until it is told that the run is over."""
        while self._away:
            self._away = self._told.recv() != ""

    def visit(self) -> None:
        """One session, from its Hello to its end."""
        outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        with dial(self._address, self._credentials) as channel:
            stream = call(channel, iter(outbox.get, None))
            outbox.put(encode(self._hello))
            try:
                self._converse(stream, outbox.put)
                self._told.send(("status", f"{stream.code().name}: {stream.details()}"))
            except grpc.RpcError:
                self._told.send(("status", f"{stream.code().name}: {stream.details()}"))
            finally:
                outbox.put(None)

    def _converse(self, stream: grpc.Call, say: Callable[[bytes], None]) -> None:
        answered: list[int] = []
        sinned = False
        for data in stream:
            match decode_from_coordinator(data):
                case Welcome():
                    self._told.send(("welcome", ""))
                case Close(reason):
                    self._told.send(("closed", reason))
                case Question(number, request) if not sinned:
                    said = self._institution.answer(request, self._address)
                    good = _in_bytes(number, said)
                    while self._told.poll():
                        self._order = self._told.recv()
                    if self._order == LEAVE:
                        say(good)
                        say(encode(Close("it has had enough")))
                        self._told.send(("did", LEAVE))
                        self._order, self._away = "", True
                        return
                    ready = self._order and (answered or self._order != Kind.STALE)
                    if ready and isinstance(said, Reply) and isinstance(request, Ask):
                        for message in self._misdeed(Kind(self._order), number, good, answered):
                            say(message)
                        self._told.send(("did", self._order))
                        self._order, sinned = "", True
                    else:
                        say(good)
                        answered.append(number)

    def _misdeed(self, kind: Kind, number: int, good: bytes, answered: list[int]) -> list[bytes]:
        """What is said in the place of an answer."""
        classes = self._institution.card.classes
        match kind:
            case Kind.GARBAGE:
                return [self._rng.randbytes(self._rng.randrange(1, 2000))]
            case Kind.SHAPE:
                return [logits(number, torch.zeros(7, classes + 1, dtype=torch.float16))]
            case Kind.NAN:
                return [logits(number, torch.full((1, classes), torch.nan, dtype=torch.float16))]
            case Kind.DUPLICATE:
                return [good, good]
            case Kind.STALE:
                old = self._rng.choice(answered)
                return [logits(old, torch.zeros(1, classes, dtype=torch.float16))]
            case _:
                raise ValueError(f"{kind} is no misdeed of a saboteur's")


def logits(number: int, value: torch.Tensor) -> bytes:
    """An answer that our own codec may refuse to write."""
    tensor = pb.Tensor(dtype=pb.DTYPE_FLOAT16, shape=tuple(value.shape))
    reply = pb.Reply(id=number, signals=[pb.Said(signal=pb.SIGNAL_LOGITS, tensor=tensor)])
    payload = [value.numpy().tobytes()]
    return bytes(pb.ConnectRequest(reply=reply, payload=payload).SerializeToString())


def intrude(folder: Path, tls: Path, kind: Kind, told: Connection) -> None:
    """Try to come in where one may not; reports "in", or how it was refused."""
    owner = load(folder / "owner.toml")
    if owner.connection is None or owner.connection.server is None:
        raise ValueError("an owner's file without a coordinator")
    expired = kind is Kind.CERTIFICATE
    files = ("ca.pem", f"{owner.name}.key", f"{owner.name}{'.expired' if expired else ''}.pem")
    ca, key, chain = ((tls / file).read_bytes() for file in files)
    token = (owner.connection.token() or "") if expired else "a guess"
    card = Card(owner.name, CLASSES, SHAPE, frozenset({Signal.LOGITS}))
    outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    credentials = grpc.ssl_channel_credentials(ca, key, chain)
    with dial(owner.connection.server, credentials) as channel:
        stream = call(channel, iter(outbox.get, None))
        outbox.put(encode(Hello(VERSION, token, card)))
        try:
            said = decode_from_coordinator(next(stream))
            told.send(("in", type(said).__name__))
        except (grpc.RpcError, StopIteration):
            told.send(("refused", f"{stream.code().name}: {stream.details()}"))
        finally:
            outbox.put(None)


def _in_bytes(number: int, said: Reply | Refusal) -> bytes:
    message = Declined(number, said) if isinstance(said, Refusal) else Answer(number, said)
    return encode(message)
