"""Pending queries: one future per query and institution; waiting for several with a deadline.

The hub's thread resolves the futures, and its callers wait for them.
"""

import time
from collections.abc import Collection, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass

from fedkd.errors import RemoteProtocolError
from fedkd.protocol import Answers, Refusal, Reply
from fedkd.server.hub.query_encoding import QueryEncodings
from fedkd.wire import Query


@dataclass(eq=False)
class PendingQuery:
    """A query to one institution that has no answer yet.

    Attributes:
        encodings: of the query; may be shared with other institutions.
        outcome: the answer, when it comes.
        retry: whether it is sent again if its session is lost.
        attempts: times that it was sent.
        sent_at: the event loop's time when it was last sent, in seconds.
    """

    encodings: QueryEncodings
    outcome: "Future[Reply | Refusal]"
    retry: bool = False
    attempts: int = 0
    sent_at: float = 0.0

    @property
    def message(self) -> Query:
        """The message, with its number."""
        return self.encodings.query

    def start(self) -> bool:
        """Whether it was not cancelled; from here on it cannot be."""
        return self.outcome.running() or self.outcome.set_running_or_notify_cancel()

    def fail(self, why: str) -> None:
        """Sets an error as its outcome."""
        if self.start():
            self.outcome.set_exception(RemoteProtocolError(why))


def wait_for_outcomes(
    outcomes: "Collection[Future[Reply | Refusal]]",
    deadline: float,
    quorum: int,
    linger: float | None,
) -> None:
    """Waits for all, until ``deadline`` or ``linger`` seconds after ``quorum`` replies came."""
    pending, answered = set(outcomes), 0
    while linger is not None and pending and answered < quorum:
        done, pending = wait(pending, max(0.0, deadline - time.monotonic()), FIRST_COMPLETED)
        if not done:
            return
        answered += sum(
            outcome.exception() is None and isinstance(outcome.result(), Reply) for outcome in done
        )
    left = max(0.0, deadline - time.monotonic())
    wait(pending, left if linger is None else min(left, linger))


def collect_outcomes(
    queries: Mapping[str, PendingQuery], why: str
) -> tuple[Answers, dict[str, Refusal | str]]:
    """The replies, and for all others the refusal or the error; ``why`` if nothing came."""
    answers: dict[str, Reply] = {}
    absent: dict[str, Refusal | str] = {}
    for name, query in queries.items():
        outcome = query.outcome
        if not outcome.done():
            absent[name] = why
        elif error := outcome.exception():
            absent[name] = error.args[0]  # the reason itself, which may be a BanReason
        elif isinstance(result := outcome.result(), Refusal):
            absent[name] = result
        else:
            answers[name] = _own(result)
    return answers, absent


def _own(reply: Reply) -> Reply:
    """A copy of ``reply``, so that the bytes of its message can be freed."""
    gradient = None if reply.gradient is None else reply.gradient.clone()
    return Reply({signal: value.clone() for signal, value in reply.signals.items()}, gradient)
