"""Sessions of an institution with coordinators: open at allowed addresses, limit, close, log.

The policy applies here for the addresses alone. Answers come from the institution's release gate.
"""

import functools
import logging
import threading
import time
from collections.abc import Callable
from datetime import datetime

from fedkd.client.institution import Institution
from fedkd.client.sessions.agent import Agent, ReconnectPolicy
from fedkd.client.sessions.recipe_renderer import RecipeGate
from fedkd.client.sessions.rendering_limits import UnansweredRendering
from fedkd.process.logs import log_event
from fedkd.protocol import Ask, PullBack, Refusal, Reply
from fedkd.wire.grpc_channels import grpc

MAX_SESSIONS = 4
"""Sessions at a time."""
MAX_TOKEN_LENGTH = 4096
"""Characters."""

log = logging.getLogger(__name__)

OnSessionEnd = Callable[[Agent], None]
"""Called with the agent whose session is over, in the agent's own thread."""


class SessionManager:
    """Agents of one institution, each with a coordinator of its own. Safe for threads.

    Args:
        institution: answers.
        servers: host:port of the coordinators that may be dialled.
        credentials: TLS of the institution; without them only this machine can be dialled.
        limit: sessions at a time.
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
        self._open: dict[tuple[str, str], tuple[Agent, threading.Thread]] = {}

    def open(
        self, address: str, token: str, on_end: OnSessionEnd = lambda agent: None
    ) -> str | None:
        """Start a session in a thread; nothing happens where one with that token is open there.

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
            if (address, token) in self._open:
                return None
            if len(self._open) >= self._limit:
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
                target=self._serve, args=(agent, (address, token), on_end), name="fedkd-agent"
            )
            self._open[address, token] = agent, thread
            log_event(log, "session_begun", server=address)
            thread.start()
        return None

    def close(self) -> None:
        """End every session, each after the answer in progress. No session is opened afterwards."""
        with self._lock:
            self._closed = True
            running = list(self._open.values())
        for agent, _ in running:
            agent.close()
        for _, thread in running:
            thread.join()

    def _serve(self, agent: Agent, key: tuple[str, str], on_end: OnSessionEnd) -> None:
        try:
            reason = agent.serve()
        except Exception as error:  # a bug here: this session ends, the others do not
            reason = f"it failed: {type(error).__name__}"
        with self._lock:
            del self._open[key]
        log_event(log, "session_ended", server=key[0], ending=agent.stop_reason, reason=reason)
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
