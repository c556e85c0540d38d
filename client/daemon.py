"""The institution's long-running process: start, wait and stop the agent and the control socket.

It dials the coordinator that its owner names, and serves the control socket for Flower. It ends on
a signal, after the answer in progress, or when the owner's own session is over.
"""

import contextlib
import logging
import queue
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType

from fedkd.client.config.connection import ConnectionTable
from fedkd.client.config.owner_config import OwnerConfig
from fedkd.client.config.private_state_folder import locked
from fedkd.client.control.server import ControlServer
from fedkd.client.institution import Institution, owner_institution
from fedkd.client.ledger.ledger import Ledger
from fedkd.client.monitoring.terminal_formatting import format_facts, format_guarantee, progress_bar
from fedkd.client.sessions.agent import Agent, StopReason
from fedkd.client.sessions.session_manager import SessionManager
from fedkd.errors import SettingsError
from fedkd.process.logs import configure_logging, log_event
from fedkd.wire.grpc_channels import host_of, refuse_plain_text

STOP_SIGNAL = "a signal"
PAUSE_SECONDS = 10.0
"""Between two runs, with ``stay``."""
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
        owner: the owner's configuration.
        server: host:port to dial, instead of the one in his file.
        style: of the log, see `fedkd.process.logs`.
        metrics: port, or host:port, for Prometheus; None for no metrics.
        stay: dial again when a run is over or the coordinator is gone.

    Returns:
        Why it stopped.

    Raises:
        SettingsError: a mistake in the owner's file, or on the command line.
        DataError: the teacher or the ledger cannot be opened.
    """
    connection = _connection(owner)
    direct, servers = _allowed_servers(owner, connection, server)
    credentials, token = connection.credentials(), connection.token()
    if server is not None and token is None:
        raise SettingsError("to dial a coordinator a token is needed; write connection.token_file")
    configure_logging(style)
    with ExitStack() as stack:
        stack.enter_context(locked(owner.state.folder))
        ledger = stack.enter_context(contextlib.closing(Ledger.anchored(owner.state.ledger)))
        with progress_bar("teacher") as progress:
            institution = owner_institution(owner, progress, ledger)
        events = stack.enter_context(_stop_signals())
        metrics_address = stack.enter_context(_metrics(metrics))
        sessions = SessionManager(institution, servers, credentials, expiry=connection.expiry())
        stack.callback(sessions.close)
        stack.enter_context(
            ControlServer(
                owner.state.control_socket, institution, sessions, owner.state.socket_group
            )
        )
        facts = _facts(owner, institution, direct if token else None, metrics_address)
        if style == "text":
            print(format_facts(facts), file=sys.stderr)
        else:
            log_event(log, "serving", **facts)
        reason = _wait(sessions, events, direct if token else None, token or "", stay)
    log_event(log, "stopped", ending=reason)
    return reason


def _wait(
    sessions: SessionManager,
    events: "queue.SimpleQueue[Agent | str]",
    server: str | None,
    token: str,
    stay: bool,
) -> StopReason:
    """Wait until a signal comes or, where a server is named, the session with it is over."""
    while True:
        if server is not None and (refused := sessions.open(server, token, events.put, own=True)):
            raise SettingsError(refused)
        agent = events.get()
        if not isinstance(agent, Agent):
            return StopReason.STOPPED
        reason = agent.stop_reason or StopReason.UNREACHABLE
        # Where sessions with other coordinators are open, one that refuses us ends none of them.
        if not stay or (reason is StopReason.REFUSED and not sessions.count):
            return reason
        with contextlib.suppress(queue.Empty):
            events.get(timeout=PAUSE_SECONDS)
            return StopReason.STOPPED


def _connection(owner: OwnerConfig) -> ConnectionTable:
    if owner.connection is None:
        raise SettingsError("there is nobody to dial; write a [connection] table")
    return owner.connection


def _allowed_servers(
    owner: OwnerConfig, connection: ConnectionTable, server: str | None
) -> tuple[str | None, frozenset[str]]:
    """The coordinator to dial, and all coordinators that may be dialled."""
    if server is None:
        if not owner.servers:
            raise SettingsError(
                "nobody may be dialled; write connection.server, or policy.servers for those "
                "that Flower opens sessions with"
            )
        return connection.server, owner.servers
    host_of(server)
    if owner.policy.servers is not None and server not in owner.policy.servers:
        raise SettingsError(f"--server {server} is not in policy.servers; the policy decides")
    if connection.insecure:
        refuse_plain_text(server)
    return server, owner.servers | {server}


@contextmanager
def _stop_signals() -> Iterator["queue.SimpleQueue[Agent | str]"]:
    """A queue that receives SIGTERM and SIGINT. A second signal ends the process as usual."""
    events: queue.SimpleQueue[Agent | str] = queue.SimpleQueue()
    handled = (signal.SIGTERM, signal.SIGINT)

    def stop(number: int, _: FrameType | None) -> None:
        for each in handled:
            signal.signal(each, before[each])
        events.put(STOP_SIGNAL)

    before = {each: signal.signal(each, stop) for each in handled}
    try:
        yield events
    finally:
        for each in handled:
            signal.signal(each, before[each])


@contextmanager
def _metrics(where: str | None) -> Iterator[str | None]:
    if where is None:
        yield None
        return
    from fedkd.client.monitoring.prometheus import metrics_endpoint  # an extra

    host, colon, port = where.rpartition(":")
    if not port.isdecimal() or (colon and not host):
        raise SettingsError(f"--metrics {where}: expected a port, or host:port")
    with metrics_endpoint(host or LOOPBACK, int(port)) as address:
        yield address


def _facts(
    owner: OwnerConfig, institution: Institution, server: str | None, metrics: str | None
) -> dict[str, object]:
    """What is served, and where: for the owner's terminal or log alone."""
    card, policy, totals = institution.card, owner.policy, institution.totals
    return {
        "name": owner.name,
        "classes": card.classes,
        "shape": "x".join(str(side) for side in card.shape),
        "signals": ", ".join(sorted(card.signals)),
        "pull_back": card.pull_back,
        "samples": policy.samples,
        "spent": totals["asked"] + totals["pulled_back"],
        "samples_per_hour": policy.samples_per_hour,
        "largest_batch": policy.largest_batch,
        "hours": policy.hours and "-".join(f"{each:%H:%M}" for each in policy.hours),
        "class_counts": policy.class_counts,
        "scores": policy.scores,
        "examinations": policy.examinations if policy.scores else None,
        "mode": policy.mode,
        "guarantee": None if card.guarantee is None else format_guarantee(card.guarantee),
        "dials": server,
        "may_dial": ", ".join(sorted(owner.servers)) or None,
        "plain_text": owner.connection is not None and owner.connection.insecure,
        "state": str(owner.state.folder),
        "control_socket": str(owner.state.control_socket),
        "metrics": metrics,
    }
