"""The long-lived process of an institution. Knows how it starts, waits and ends, and no question.

It dials the coordinator that its owner names, hears the bell where Flower rings, and ends by a
signal, after the answer that it is at, or when the owner's own session is over.
"""

import contextlib
import logging
import queue
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType

from fedkd.client.sessions.agent import Agent, StopReason
from fedkd.client.control.server import ControlServer
from fedkd.client.institution import Institution, owned
from fedkd.client.ledger.ledger import Ledger
from fedkd.client.monitoring.console import banner, bar, promise
from fedkd.client.config.owner_config import Connection, OwnerConfig
from fedkd.client.sessions.session_manager import SessionManager
from fedkd.client.config.state_folder import kept
from fedkd.core.logs import configure, say
from fedkd.errors import SettingsError
from fedkd.wire.channel import host_of, refuse_plain_text

LEFT = "a signal"
PAUSE = 10.0
"""Seconds between two runs, for whoever stays."""
LOOPBACK = "127.0.0.1"

log = logging.getLogger(__name__)


def serve(
    owner: OwnerConfig,
    server: str | None = None,
    style: str = "text",
    metrics: str | None = None,
    stay: bool = False,
) -> StopReason:
    """Answer coordinators until told to stop.

    Args:
        owner: what he has and allows.
        server: host:port to dial, in the place of the one in his file.
        style: of the log, see `fedkd.core.logs`.
        metrics: port, or host:port, where Prometheus may read counters; None for nowhere.
        stay: dial again when a run is over or the coordinator is gone.

    Returns:
        Why it ended.

    Raises:
        SettingsError: something in the owner's file, or on the command line, cannot be.
        DataError: the teacher or the ledger cannot be opened.
    """
    connection = _connection(owner)
    direct, servers = _named(owner, connection, server)
    credentials, token = connection.credentials(), connection.token()
    if server is not None and token is None:
        raise SettingsError("to dial a coordinator a token is needed; write connection.token_file")
    configure(style)
    with ExitStack() as stack:
        stack.enter_context(kept(owner.state.folder))
        ledger = stack.enter_context(contextlib.closing(Ledger(owner.state.ledger)))
        with bar("teacher") as watch:
            institution = owned(owner, watch, ledger)
        happened = stack.enter_context(_signals())
        where = stack.enter_context(_metrics(metrics))
        sessions = SessionManager(institution, servers, credentials)
        stack.callback(sessions.close)
        stack.enter_context(ControlServer(owner.state.bell, institution, sessions, owner.state.socket_group))
        facts = _facts(owner, institution, direct if token else None, where)
        if style == "text":
            print(banner(facts), file=sys.stderr)
        else:
            say(log, "serving", **facts)
        ending = _wait(sessions, happened, direct if token else None, token or "", stay)
    say(log, "stopped", ending=ending)
    return ending


def _wait(
    sessions: SessionManager,
    happened: "queue.SimpleQueue[Agent | str]",
    server: str | None,
    token: str,
    stay: bool,
) -> StopReason:
    """Until a signal comes or, where a server is named, the session with it is over."""
    while True:
        if server is not None and (objection := sessions.open(server, token, happened.put)):
            raise SettingsError(objection)
        agent = happened.get()
        if not isinstance(agent, Agent):
            return StopReason.LEFT
        ending = agent.ending or StopReason.GONE
        if ending is StopReason.REFUSED or not stay:
            return ending
        with contextlib.suppress(queue.Empty):
            happened.get(timeout=PAUSE)
            return StopReason.LEFT


def _connection(owner: OwnerConfig) -> Connection:
    if owner.connection is None:
        raise SettingsError("there is nobody to dial; write a [connection] table")
    return owner.connection


def _named(
    owner: OwnerConfig, connection: Connection, server: str | None
) -> tuple[str | None, frozenset[str]]:
    """The coordinator to dial, and all that may be."""
    if server is None:
        if not owner.servers:
            raise SettingsError(
                "nobody may be dialled; write connection.server, or policy.servers for those "
                "that Flower rings for"
            )
        return connection.server, owner.servers
    host_of(server)
    if owner.policy.servers is not None and server not in owner.policy.servers:
        raise SettingsError(f"--server {server} is not in policy.servers; the policy decides")
    if connection.insecure:
        refuse_plain_text(server)
    return server, owner.servers | {server}


@contextmanager
def _signals() -> Iterator["queue.SimpleQueue[Agent | str]"]:
    """A queue that hears of SIGTERM and SIGINT. A second one ends the process as ever."""
    happened: queue.SimpleQueue[Agent | str] = queue.SimpleQueue()
    known = (signal.SIGTERM, signal.SIGINT)

    def stop(number: int, _: FrameType | None) -> None:
        for each in known:
            signal.signal(each, before[each])
        happened.put(LEFT)

    before = {each: signal.signal(each, stop) for each in known}
    try:
        yield happened
    finally:
        for each in known:
            signal.signal(each, before[each])


@contextmanager
def _metrics(where: str | None) -> Iterator[str | None]:
    if where is None:
        yield None
        return
    from fedkd.client.monitoring.prometheus import exposed  # an extra

    host, colon, port = where.rpartition(":")
    if not port.isdecimal() or (colon and not host):
        raise SettingsError(f"--metrics {where}: expected a port, or host:port")
    with exposed(host or LOOPBACK, int(port)) as address:
        yield address


def _facts(
    owner: OwnerConfig, institution: Institution, server: str | None, metrics: str | None
) -> dict[str, object]:
    """Who serves what from where: for the owner's screen or log, and for nobody else."""
    card, policy, spent = institution.card, owner.policy, institution.tally
    return {
        "name": owner.name,
        "classes": card.classes,
        "shape": "x".join(str(side) for side in card.shape),
        "signals": ", ".join(sorted(card.signals)),
        "pull_back": card.pull_back,
        "samples": policy.samples,
        "spent": spent["asked"] + spent["pulled_back"],
        "samples_per_hour": policy.samples_per_hour,
        "largest_batch": policy.largest_batch,
        "hours": policy.hours and "-".join(f"{each:%H:%M}" for each in policy.hours),
        "class_counts": policy.class_counts,
        "scores": policy.scores,
        "examinations": policy.examinations if policy.scores else None,
        "mode": policy.mode,
        "promises": None if card.guarantee is None else promise(card.guarantee),
        "dials": server,
        "may_dial": ", ".join(sorted(owner.servers)) or None,
        "plain_text": owner.connection is not None and owner.connection.insecure,
        "state": str(owner.state.folder),
        "bell": str(owner.state.bell),
        "metrics": metrics,
    }
