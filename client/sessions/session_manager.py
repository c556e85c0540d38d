"""Sessions of an institution with coordinators: open at allowed addresses, limit, close, log.

The policy applies here for the addresses alone. Answers come from the institution's release gate.
"""

import functools
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from fedkd.client.institution import Institution
from fedkd.client.sessions.agent import Agent, ReconnectPolicy
from fedkd.client.sessions.recipe_renderer import RecipeGate
from fedkd.client.sessions.rendering_limits import UnansweredRendering
from fedkd.process.logs import log_event
from fedkd.protocol import Ask, PullBack, Refusal, Reply
from fedkd.wire.grpc_channels import grpc

MAX_SESSIONS = 4
"""Sessions at a time that others ask for, through the control socket."""
MAX_TOKEN_LENGTH = 4096
"""Characters."""

log = logging.getLogger(__name__)

OnSessionEnd = Callable[[Agent], None]
"""Called with the agent whose session is over, in the agent's own thread."""


@dataclass
class _OpenSession:
    """One session, and who is told of its end."""

    agent: Agent
    thread: threading.Thread
    own: bool
    """The owner's own."""
    on_end: list[OnSessionEnd]


class SessionManager:
    """Agents of one institution, each with a coordinator of its own. Safe for threads.

    Args:
        institution: answers.
        servers: host:port of the coordinators that may be dialled.
        credentials: TLS of the institution; without them only this machine can be dialled.
        limit: sessions at a time, beside those that the owner opens.
        reconnect: backoff of each agent.
        expiry: of the institution's certificate, UTC: sessions end then. None for plain text.
    """

    def __init__(
        self,
        institution: Institution,
        servers: frozenset[str],
        credentials: grpc.ChannelCredentials | None,
        limit: int = MAX_SESSIONS,
        reconnect: ReconnectPolicy | None = None,
        expiry: datetime | None = None,
    ) -> None:
        self._institution, self._servers, self._limit = institution, servers, limit
        self._credentials, self._reconnect, self._expiry = credentials, reconnect, expiry
        self._unanswered = UnansweredRendering()
        self._lock = threading.Lock()
        self._closed = False
        self._open: dict[tuple[str, str], _OpenSession] = {}

    @property
    def count(self) -> int:
        """Sessions that are open."""
        with self._lock:
            return len(self._open)

    def open(
        self, address: str, token: str, on_end: OnSessionEnd | None = None, *, own: bool = False
    ) -> str | None:
        """Start a session in a thread; none is started where one with that token is open there.

        Args:
            address: host:port of the coordinator.
            token: of its run.
            on_end: called when that session is over, whoever has opened it.
            own: the owner's, which no number of others keeps out.

        Returns:
            Why none is opened, fit for the other side; None where one is open.
        """
        if address not in self._servers:
            return "this institution does not dial that address"
        if not 1 <= len(token) <= MAX_TOKEN_LENGTH:
            return f"a token has 1 to {MAX_TOKEN_LENGTH} characters"
        with self._lock:
            if self._closed:
                return "this institution is leaving"
            callbacks = [] if on_end is None else [on_end]
            if (there := self._open.get((address, token))) is not None:
                there.on_end += callbacks
                there.own |= own
                return None
            if not own and sum(not each.own for each in self._open.values()) >= self._limit:
                return f"this institution is in {self._limit} sessions, and takes no more at a time"
            answer = functools.partial(self._answer, address)
            card = self._institution.card
            recipes = RecipeGate(
                functools.partial(self._institution.recipe_refusal, server=address),
                functools.partial(self._institution.record_unrendered, server=address),
                self._unanswered,
            )
            agent = Agent(
                address,
                token,
                card,
                answer,
                self._credentials,
                self._reconnect,
                recipes=recipes,
                expiry=self._expiry,
            )
            thread = threading.Thread(
                target=self._serve, args=(agent, (address, token)), name="fedkd-agent"
            )
            self._open[address, token] = _OpenSession(agent, thread, own, callbacks)
            log_event(log, "session_begun", server=address)
            thread.start()
        return None

    def close(self) -> None:
        """End every session, each after the answer in progress. No session is opened afterwards."""
        with self._lock:
            self._closed = True
            running = list(self._open.values())
        for session in running:
            session.agent.close()
        for session in running:
            session.thread.join()

    def _serve(self, agent: Agent, key: tuple[str, str]) -> None:
        try:
            reason = agent.serve()
        except Exception as error:  # a bug here: this session ends, the others do not
            reason = f"it failed: {type(error).__name__}"
        with self._lock:
            ended = self._open.pop(key)
        log_event(log, "session_ended", server=key[0], ending=agent.stop_reason, reason=reason)
        for on_end in ended.on_end:
            on_end(agent)

    def _answer(self, server: str, request: Ask | PullBack) -> Reply | Refusal:
        began = time.perf_counter()
        answer = self._institution.answer(request, server)
        log_event(
            log,
            "question",
            server=server,
            kind="ask" if isinstance(request, Ask) else "pull_back",
            samples=len(request.images),
            seconds=round(time.perf_counter() - began, 6),
            refused=answer.reason.value if isinstance(answer, Refusal) else None,
        )
        return answer
