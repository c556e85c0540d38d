"""Our own wire, whole: a hub here, institutions with door and books in another process.

What answers behind the door costs nothing, so that what is measured is all that fedkd adds to a
teacher: codec, law of the session, checks of values, policy, charge, and gRPC's stream.
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
from fedkd.core.logs import configure
from fedkd.errors import QuorumLost
from fedkd.models import Teacher
from fedkd.privacy import Policy
from fedkd.protocol import Ask, PullBack, Refusal, Reply, Signal, rounded
from fedkd.server.hub.certificates import server_credentials
from fedkd.server.hub.hub import Hub
from fedkd.simulations.benchmarks.child_process import partner, until_over
from fedkd.wire.channel import grpc

SHAPE, CLASSES = (3, 32, 32), 10
LIMIT = 60.0
"""Seconds that institutions may take to come, and to answer."""


def preset_logits(batch: int) -> Tensor:
    """(B, K) float32 that every teacher of these benchmarks answers."""
    return torch.linspace(-4, 4, CLASSES).expand(batch, CLASSES).contiguous()


class Preset:
    """A teacher that has its answers ready."""

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


PRESET = Preset()


class PresetVault(Vault):
    """The vault of a `Preset` teacher: it holds no image."""

    classes, shape, scores = CLASSES, SHAPE, False
    class_names = class_counts = guarantee = training = None
    fingerprints = ()

    @cached_property
    def teacher(self) -> Teacher:
        """One that costs nothing."""
        return PRESET

    def score(self, model: nn.Module, classes: Sequence[str] | None = None) -> tuple[int, int]:
        """See `Vault.score`; there is nothing to score on."""
        return 0, 0


def institution(name: str) -> Institution:
    """With a real door, a real policy, and books in memory."""
    return Institution(name, PresetVault(), Policy(pull_back=True))


@dataclass(frozen=True)
class Wire:
    """Institutions that are here, ready to be asked."""

    hub: Hub
    names: tuple[str, ...]
    process: int
    """Of all institutions."""

    def ask(self, request: Ask | PullBack, count: int = 1) -> Reply:
        """Put one question to the first ``count`` institutions; the first one's reply.

        Raises:
            QuorumLost: somebody did not answer.
        """
        names = self.names[:count]
        answers, absent = self.hub.ask(dict.fromkeys(names, request), LIMIT)
        if absent:
            raise QuorumLost(f"{len(absent)} of {count} institutions did not answer: {absent}")
        return answers[names[0]]

    def ask_at_once(self, requests: Iterable[Ask]) -> list[Reply | Refusal]:
        """Put several questions to the first institution before any is answered."""
        outcomes = [self.hub.submit(self.names[0], request) for request in requests]
        return [outcome.result(LIMIT) for outcome in outcomes]

    def bytes_of(self, request: Ask | PullBack) -> int:
        """That one question and its answer take on the wire, as encoded."""
        before = self._bytes
        self.ask(request)
        return self._bytes - before

    @property
    def _bytes(self) -> int:
        counters = self.hub.counters[self.names[0]]
        return counters.bytes_sent + counters.bytes_received


@dataclass(frozen=True)
class Site:
    """Who is to dial in at a hub of their own.

    Attributes:
        names: of institutions, as in their certificates, where there are any.
        tls: folder of everybody's certificates; None for plain text.
        door: whether there are door and books behind the agents, or ready answers alone.
    """

    names: tuple[str, ...]
    tls: Path | None = None
    door: bool = True


@contextmanager
def wires(sites: Sequence[Site]) -> Iterator[list[Wire]]:
    """A hub for each site, for the time of the block; all institutions are in one other process."""
    token = secrets.token_urlsafe()
    with ExitStack() as stack:
        hubs = [
            stack.enter_context(Hub(token, credentials=site.tls and server_credentials(site.tls)))
            for site in sites
        ]
        told = [(hub.address, site) for hub, site in zip(hubs, sites, strict=True)]
        _, process = stack.enter_context(partner(_institutions, token, told))
        for hub, site in zip(hubs, sites, strict=True):
            hub.wait_for(len(site.names), LIMIT)
        yield [Wire(hub, site.names, process) for hub, site in zip(hubs, sites, strict=True)]


def _institutions(connection: Connection, token: str, told: Sequence[tuple[str, Site]]) -> None:
    torch.set_num_threads(1)
    configure("text")
    logging.disable(logging.INFO)  # a line a question is not what is measured
    everybody: list[SessionManager | Agent] = []
    for address, site in told:
        for name in site.names:
            here = institution(name)
            if site.door:
                credentials = None if site.tls is None else own(site.tls, name)
                sessions = SessionManager(here, frozenset({address}), credentials)
                sessions.open(address, token)
                everybody.append(sessions)
            else:
                agent = Agent(address, token, here.card, ready)
                threading.Thread(target=agent.serve).start()
                everybody.append(agent)
    connection.send("here")
    until_over(connection)
    logging.disable()  # that they leave is no news
    for each in everybody:
        each.close()


def ready(request: Ask | PullBack) -> Reply:
    """What an agent says behind which there is no door."""
    if isinstance(request, PullBack):
        return Reply(gradient=PRESET.pull_back(request.images, request.cotangents))
    said = PRESET.ask(request.images, request.signals)
    return Reply({each: rounded(value, each, request.exact) for each, value in said.items()})


def own(tls: Path, name: str) -> grpc.ChannelCredentials:
    """An institution's credentials out of a folder of everybody's."""
    ca, key, chain = (tls / file for file in ("ca.pem", f"{name}.key", f"{name}.pem"))
    return grpc.ssl_channel_credentials(ca.read_bytes(), key.read_bytes(), chain.read_bytes())
