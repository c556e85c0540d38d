"""fedkd's own gRPC transport, measured by the wire benchmark: a hub here, institutions beside it.

Their teachers cost nothing, so that the measurement is what fedkd adds to a teacher: codec, session
state machine, checks of values, policy, charge, and gRPC's stream.
"""

import logging
import secrets
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import Tensor, nn

from fedkd.client.institution import Institution
from fedkd.client.sessions.agent import Agent
from fedkd.client.sessions.session_manager import SessionManager
from fedkd.client.vault.vault import Vault
from fedkd.errors import QuorumLost
from fedkd.models import Teacher
from fedkd.privacy import Policy
from fedkd.process.logs import configure_logging
from fedkd.protocol import Ask, PullBack, Refusal, Reply, Signal, rounded
from fedkd.server.hub.hub import Hub
from fedkd.server.hub.tls_certificates import server_credentials
from fedkd.simulations.benchmarks.child_process import child_process, wait_until_closed
from fedkd.wire.grpc_channels import grpc

SHAPE, CLASSES = (3, 32, 32), 10
TIMEOUT = 60.0
"""Seconds that institutions may take to join, and to answer."""


def preset_logits(batch: int) -> Tensor:
    """(B, K) float32 logits: the answer of all teachers of these benchmarks."""
    return torch.linspace(-4, 4, CLASSES).expand(batch, CLASSES).contiguous()


class PresetTeacher:
    """A teacher with precomputed answers."""

    classes = CLASSES
    signals = frozenset({Signal.LOGITS})
    differentiable = True

    def __init__(self) -> None:
        self._logits = preset_logits(4096)
        self._gradient = torch.rand(4096, *SHAPE)

    def ask(self, images: Tensor, signals: frozenset[Signal]) -> dict[Signal, Tensor]:
        """See `fedkd.models.teacher.Teacher.ask`."""
        return dict.fromkeys(signals, self._logits[: len(images)])

    def pull_back(self, images: Tensor, cotangents: Mapping[Signal, Tensor]) -> Tensor:
        """See `fedkd.models.teacher.Teacher.pull_back`."""
        return self._gradient[: len(images)]


PRESET_TEACHER = PresetTeacher()


class PresetVault(Vault):
    """The vault of a `PresetTeacher`, without images."""

    classes, shape, scores = CLASSES, SHAPE, False
    class_names = class_counts = guarantee = dp_training = None
    fingerprints = ()

    @cached_property
    def teacher(self) -> Teacher:
        """A teacher that costs nothing."""
        return PRESET_TEACHER

    def score(self, model: nn.Module, classes: Sequence[str] | None = None) -> tuple[int, int]:
        """See `Vault.score`; there is nothing to score on."""
        return 0, 0


def institution(name: str) -> Institution:
    """An institution with a real release gate, a real policy, and a ledger in memory."""
    return Institution(name, PresetVault(), Policy(pull_back=True))


@dataclass(frozen=True)
class HubConnection:
    """A hub and its connected institutions."""

    hub: Hub
    names: tuple[str, ...]
    process: int
    """Process id of all institutions."""

    def ask(self, request: Ask | PullBack, count: int = 1) -> Reply:
        """Send one query to the first ``count`` institutions; returns the first one's reply.

        Raises:
            QuorumLost: an institution did not answer.
        """
        names = self.names[:count]
        answers, absent = self.hub.ask(dict.fromkeys(names, request), TIMEOUT)
        if absent:
            raise QuorumLost(f"{len(absent)} of {count} institutions did not answer: {absent}")
        return answers[names[0]]

    def ask_at_once(self, requests: Iterable[Ask]) -> list[Reply | Refusal]:
        """Send several queries to the first institution before any is answered."""
        outcomes = [self.hub.submit(self.names[0], request) for request in requests]
        return [outcome.result(TIMEOUT) for outcome in outcomes]

    def bytes_of(self, request: Ask | PullBack) -> int:
        """Encoded bytes of one query and its answer."""
        before = self._bytes
        self.ask(request)
        return self._bytes - before

    @property
    def _bytes(self) -> int:
        counters = self.hub.counters[self.names[0]]
        return counters.bytes_sent + counters.bytes_received


@dataclass(frozen=True)
class HubSetup:
    """Settings of a hub and its institutions.

    Attributes:
        names: of institutions, as in their certificates.
        tls: folder of all certificates; None for plain text.
        gate: whether agents have a release gate and a ledger, or precomputed answers only.
    """

    names: tuple[str, ...]
    tls: Path | None = None
    gate: bool = True


@contextmanager
def connected_hubs(setups: Sequence[HubSetup]) -> Iterator[list[HubConnection]]:
    """A hub for each setup, within the block; all institutions are in one other process."""
    token = secrets.token_urlsafe()
    with ExitStack() as stack:
        hubs = [
            stack.enter_context(Hub(token, credentials=setup.tls and server_credentials(setup.tls)))
            for setup in setups
        ]
        addressed_setups = [(hub.address, setup) for hub, setup in zip(hubs, setups, strict=True)]
        _, process = stack.enter_context(child_process(_institutions, token, addressed_setups))
        for hub, setup in zip(hubs, setups, strict=True):
            hub.wait_for(len(setup.names), TIMEOUT)
        yield [
            HubConnection(hub, setup.names, process)
            for hub, setup in zip(hubs, setups, strict=True)
        ]


def _institutions(
    connection: Connection, token: str, addressed_setups: Sequence[tuple[str, HubSetup]]
) -> None:
    torch.set_num_threads(1)
    configure_logging("text")
    logging.disable(logging.INFO)  # a log line for each query would be measured too
    participants: list[SessionManager | Agent] = []
    for address, setup in addressed_setups:
        for name in setup.names:
            institution_ = institution(name)
            if setup.gate:
                credentials = (
                    None if setup.tls is None else institution_credentials(setup.tls, name)
                )
                sessions = SessionManager(institution_, frozenset({address}), credentials)
                sessions.open(address, token)
                participants.append(sessions)
            else:
                agent = Agent(address, token, institution_.card, preset_answer)
                threading.Thread(target=agent.serve).start()
                participants.append(agent)
    connection.send("here")
    wait_until_closed(connection)
    logging.disable()  # disconnections are expected now
    for each in participants:
        each.close()


def preset_answer(request: Ask | PullBack) -> Reply:
    """The answer of an agent without a release gate."""
    if isinstance(request, PullBack):
        return Reply(gradient=PRESET_TEACHER.pull_back(request.images, request.cotangents))
    signals = PRESET_TEACHER.ask(request.images, request.signals)
    return Reply({each: rounded(value, each, request.exact) for each, value in signals.items()})


def institution_credentials(tls: Path, name: str) -> grpc.ChannelCredentials:
    """An institution's credentials, from the folder of all certificates."""
    ca, key, chain = (tls / file for file in ("ca.pem", f"{name}.key", f"{name}.pem"))
    return grpc.ssl_channel_credentials(ca.read_bytes(), key.read_bytes(), chain.read_bytes())
