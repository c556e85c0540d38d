"""An institution's sessions with coordinators: dialled out, at allowed addresses, so many at once.

It knows no policy beyond the addresses: what is answered, the institution's door decides.
"""

import functools
import logging
import threading
import time
from collections.abc import Callable

from fedkd.client.institution import Institution
from fedkd.client.sessions.agent import Agent, ReconnectPolicy
from fedkd.core.logs import say
from fedkd.protocol import Ask, PullBack, Refusal, Reply
from fedkd.wire.channel import grpc

MOST = 4
"""SessionManager at a time."""
LONGEST_TOKEN = 4096
"""Characters."""

log = logging.getLogger(__name__)

Ended = Callable[[Agent], None]
"""Is told which agent's work is over, in the agent's own thread."""


class SessionManager:
    """Agents of one institution, each with a coordinator of its own. Safe for threads.

    Args:
        institution: answers.
        servers: host:port of whoever may be dialled; nobody else is.
        credentials: TLS of the institution; without them only this machine can be dialled.
        most: sessions at a time.
        patience: of each agent.
    """

    def __init__(
        self,
        institution: Institution,
        servers: frozenset[str],
        credentials: grpc.ChannelCredentials | None,
        most: int = MOST,
        patience: ReconnectPolicy | None = None,
    ) -> None:
        self._institution, self._servers, self._most = institution, servers, most
        self._credentials, self._patience = credentials, patience
        self._lock = threading.Lock()
        self._closed = False
        self._open: dict[tuple[str, str], tuple[Agent, threading.Thread]] = {}

    def open(self, address: str, token: str, ended: Ended = lambda agent: None) -> str | None:
        """Dial in, in a thread; does nothing where that coordinator is dialled with that token.

        Returns:
            Why nobody is dialled, fit for the other side; None where somebody is.
        """
        if address not in self._servers:
            return "this institution does not dial that address"
        if not 1 <= len(token) <= LONGEST_TOKEN:
            return f"a token has 1 to {LONGEST_TOKEN} characters"
        with self._lock:
            if self._closed:
                return "this institution is leaving"
            if (address, token) in self._open:
                return None
            if len(self._open) >= self._most:
                return f"this institution is in {self._most} sessions, and takes no more at a time"
            answer = functools.partial(self._answer, address)
            card = self._institution.card
            agent = Agent(address, token, card, answer, self._credentials, self._patience)
            thread = threading.Thread(
                target=self._serve, args=(agent, (address, token), ended), name="fedkd-agent"
            )
            self._open[address, token] = agent, thread
            say(log, "session_begun", server=address)
            thread.start()
        return None

    def close(self) -> None:
        """End every session, each after the answer that it is at. Nothing is dialled after it."""
        with self._lock:
            self._closed = True
            running = list(self._open.values())
        for agent, _ in running:
            agent.close()
        for _, thread in running:
            thread.join()

    def _serve(self, agent: Agent, key: tuple[str, str], ended: Ended) -> None:
        try:
            reason = agent.serve()
        except Exception as error:  # a defect of ours: this session ends, the others do not
            reason = f"it failed: {type(error).__name__}"
        with self._lock:
            del self._open[key]
        say(log, "session_ended", server=key[0], ending=agent.ending, reason=reason)
        ended(agent)

    def _answer(self, server: str, request: Ask | PullBack) -> Reply | Refusal:
        began = time.perf_counter()
        said = self._institution.answer(request, server)
        say(
            log,
            "question",
            server=server,
            kind="ask" if isinstance(request, Ask) else "pull_back",
            samples=len(request.images),
            seconds=round(time.perf_counter() - began, 6),
            refused=said.reason.value if isinstance(said, Refusal) else None,
        )
        return said
