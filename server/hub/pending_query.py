"""A question on its way to one institution, and what it is to wait for several. Knows no session.

The futures in parcels are where the hub's thread and its callers meet.
"""

import time
from collections.abc import Collection, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass

from fedkd.errors import RemoteProtocolError
from fedkd.protocol.signals import Answers, Refusal, Reply
from fedkd.server.hub.query_encoding import Letter
from fedkd.wire.messages import Question


@dataclass(eq=False)
class Parcel:
    """A question on its way to one institution.

    Attributes:
        letter: the question, which may be shared with other seats.
        outcome: what comes of it.
        returns: whether it is put again where its session is lost.
        tries: times that it was sent.
        sent: the loop's time at the last of them, in seconds.
    """

    letter: Letter
    outcome: "Future[Reply | Refusal]"
    returns: bool = False
    tries: int = 0
    sent: float = 0.0

    @property
    def question(self) -> Question:
        """Under its number."""
        return self.letter.question

    def start(self) -> bool:
        """Whether somebody waits for it still; from here on it cannot be cancelled."""
        return self.outcome.running() or self.outcome.set_running_or_notify_cancel()

    def lose(self, why: str) -> None:
        """Ends the wait for it, in failure."""
        if self.start():
            self.outcome.set_exception(RemoteProtocolError(why))


def await_outcomes(
    outcomes: "Collection[Future[Reply | Refusal]]",
    deadline: float,
    quorum: int,
    linger: float | None,
) -> None:
    """Waits for all, until ``deadline``, or ``linger`` seconds after ``quorum`` of them came."""
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


def sorted_out(parcels: Mapping[str, Parcel], why: str) -> tuple[Answers, dict[str, Refusal | str]]:
    """Replies, and for everybody else the refusal or the reason; ``why`` where nothing came."""
    answers: dict[str, Reply] = {}
    absent: dict[str, Refusal | str] = {}
    for name, parcel in parcels.items():
        outcome = parcel.outcome
        if not outcome.done():
            absent[name] = why
        elif error := outcome.exception():
            absent[name] = error.args[0]  # the reason itself, which may be a Struck
        elif isinstance(result := outcome.result(), Refusal):
            absent[name] = result
        else:
            answers[name] = _own(result)
    return answers, absent


def _own(reply: Reply) -> Reply:
    """``reply`` with tensors of its own, so that the message's bytes can go."""
    gradient = None if reply.gradient is None else reply.gradient.clone()
    return Reply({signal: said.clone() for signal, said in reply.signals.items()}, gradient)
