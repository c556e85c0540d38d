"""A participating institution over all its sessions: reconnection, retries, back-off when late.

Everything here runs on the hub's thread. `rejection` only reads.
"""

import time
from collections.abc import Callable
from dataclasses import replace

from fedkd.protocol import Card
from fedkd.server.hub.bans import BanReason
from fedkd.server.hub.participant_session import ParticipantCounters, ParticipantSession
from fedkd.server.hub.pending_query import PendingQuery
from fedkd.server.hub.query_encoding import EncodingSelector
from fedkd.wire import Session
from fedkd.wire.grpc_channels import grpc

MAX_ATTEMPTS = 5
"""Times that a question is sent, if its session is lost each time."""
MAX_BACKOFF_DOUBLINGS = 16
NEVER_CONNECTED = "it has not come yet"


class Participant:
    """An institution that was admitted at least once.

    Args:
        card: the first that it sent.
        late_answer_seconds: how long an answer that nobody waits for may be overdue.
        on_violation: called at once with the protocol violation of the institution.
    """

    def __init__(
        self, card: Card, late_answer_seconds: float, on_violation: Callable[[BanReason], None]
    ) -> None:
        self.counters = ParticipantCounters(end_reason=NEVER_CONNECTED)
        self.session: ParticipantSession | None = None
        """Its open session; None while it is away."""
        self._card = card
        self._selector = EncodingSelector()
        self._on_violation = on_violation
        self._late_answer_seconds = late_answer_seconds
        self._to_retry: list[PendingQuery] = []
        self._consecutive_late = 0
        self._backoff_until = 0.0

    def rejection(self, card: Card) -> tuple[grpc.StatusCode, str] | None:
        """Why it may not open a session with ``card``; None if it may."""
        code = grpc.StatusCode
        if self.session is not None:
            return code.ALREADY_EXISTS, f"{card.name!r} is here already; choose another name"
        if _fixed_fields(card) != _fixed_fields(self._card):
            return code.FAILED_PRECONDITION, (
                f"{card.name!r} came with another card before: what its teacher reads and predicts "
                "stays as it is through a run; bring the same teacher back, or choose another name"
            )
        return None

    def open_session(
        self, card: Card, stream: grpc.aio.ServicerContext, protocol: Session
    ) -> ParticipantSession:
        """Opens a session; questions lost with the last one are sent again under their numbers."""
        session = self.session = ParticipantSession(
            *(card, stream, protocol, self._selector, self.counters, self._late_answer_seconds),
            on_timely_answer=self._on_timely_answer,
            on_violation=self._on_violation,
            on_end=lambda: self._on_end(session),
        )
        self._selector.start_session()
        self.counters.end_reason = ""
        for query in self._to_retry:
            session.submit(query)
        self._to_retry.clear()
        return session

    def submit(self, query: PendingQuery) -> None:
        """Accepts a question, or fails it at once if the institution cannot be asked now."""
        if self.session is None:
            query.fail(self.counters.end_reason)
        elif self.session.overdue_question:
            query.fail(f"it still owes the answer to question {self.session.overdue_question}")
        elif (backoff := self._backoff_until - time.monotonic()) > 0:
            query.fail(
                f"{self._consecutive_late} answers in a row were late; "
                f"asked again in {backoff:.1f} s"
            )
        else:
            self.session.submit(query)

    def stop_waiting(self, query: PendingQuery, waited: float) -> None:
        """The caller stopped waiting, after ``waited`` seconds that this institution alone cost.

        An institution that is late once is asked again as soon as it has answered. One that is
        late repeatedly is left out for as long as its delays have cost, doubled each time.
        """
        if query.outcome.done():
            return
        if query in self._to_retry:
            self._to_retry.remove(query)
        elif self.session is not None:
            self.session.abandon(query)
        if waited:
            self._consecutive_late += 1
            backoff = waited * (2 ** min(self._consecutive_late - 1, MAX_BACKOFF_DOUBLINGS) - 1)
            self._backoff_until = time.monotonic() + min(backoff, self._late_answer_seconds)

    def close(self, why: str) -> None:
        """Ends its session and fails all its pending questions."""
        if self.session is not None:
            self.session.close(why)
        for query in self._to_retry:
            query.fail(why)
        self._to_retry.clear()

    def refuse(self, why: str) -> None:
        """Ends its session as one that should not have been opened, and fails its questions."""
        if self.session is not None:
            self.session.refuse(why)
        self.close(why)

    def _on_timely_answer(self) -> None:
        self._consecutive_late = 0

    def _on_end(self, session: ParticipantSession) -> None:
        why = self.counters.end_reason
        for query in session.take_unanswered():
            if session.may_return and query.retry and query.attempts < MAX_ATTEMPTS:
                self._to_retry.append(query)
            else:
                query.fail(why)
        self.session = None


def _fixed_fields(card: Card) -> Card:
    """The fields of ``card`` that may not change: what its teacher reads and predicts.

    After a restart its release policy may be another, with what that discloses and guarantees, and
    so may the version of fedkd, within what the handshake admits.
    """
    return replace(
        card,
        signals=frozenset(),
        pull_back=False,
        samples=None,
        largest_batch=1,
        class_counts=None,
        scores=False,
        guarantee=None,
        recipes=0,
        numbers=tuple(replace(number, error=None) for number in card.numbers),
        fedkd_version="",
        batch_statistics=False,
    )
