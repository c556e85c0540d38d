"""Pending queries: one future per query and institution, and what came of several.

The hub's thread resolves the futures, and its callers wait for them.
"""

from collections.abc import Mapping
from concurrent.futures import Future
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
