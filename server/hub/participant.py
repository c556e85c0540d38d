"""One institution in a run, over all its sessions: what it owes, and whether it may come in.

Knows no other institution. Everything here runs on the hub's thread, but `objection` reads only.
"""

import time
from collections.abc import Callable
from dataclasses import replace

from fedkd.protocol.signals import Card
from fedkd.server.hub.bans import Struck
from fedkd.server.hub.pending_query import Parcel
from fedkd.server.hub.query_encoding import Wording
from fedkd.server.hub.session import Counters, Seat
from fedkd.wire.channel import grpc
from fedkd.wire.session import Session

TRIES = 5
"""Times that a question is put, where its session is lost each time."""
MOST_DOUBLINGS = 16
ABSENT = "it has not come yet"


class Member:
    """An institution that was let in once.

    Args:
        card: the first that it showed.
        patience: seconds that it may owe an answer for which nobody waits any more.
        strike: is told at once how it broke the law.
    """

    def __init__(self, card: Card, patience: float, strike: Callable[[Struck], None]) -> None:
        self.counters = Counters(ended=ABSENT)
        self.seat: Seat | None = None
        """Its open session; None while it is away."""
        self._card = card
        self._wording = Wording()
        self._strike = strike
        self._patience = patience
        self._orphans: list[Parcel] = []
        self._missed = 0
        self._rests_until = 0.0

    def objection(self, card: Card) -> tuple[grpc.StatusCode, str] | None:
        """Why it may not open a session as ``card`` says; None where it may."""
        code = grpc.StatusCode
        if self.seat is not None:
            return code.ALREADY_EXISTS, f"{card.name!r} is here already; choose another name"
        if _lasting(card) != _lasting(self._card):
            return code.FAILED_PRECONDITION, (
                f"{card.name!r} came with another card before: classes and shape stay as they are "
                "through a run; bring the same teacher back, or choose another name"
            )
        return None

    def sit(self, card: Card, stream: grpc.aio.ServicerContext, session: Session) -> Seat:
        """Opens a session: what was lost with the last one is put again, under its numbers."""
        seat = self.seat = Seat(
            *(card, stream, session, self._wording, self.counters, self._patience),
            in_time=self._punctual,
            strike=self._strike,
            vacate=lambda: self._vacate(seat),
        )
        self._wording.begin()
        self.counters.ended = ""
        for parcel in self._orphans:
            seat.put(parcel)
        self._orphans.clear()
        return seat

    def put(self, parcel: Parcel) -> None:
        """Takes a question; one that it cannot be asked now is lost at once."""
        if self.seat is None:
            parcel.lose(self.counters.ended)
        elif self.seat.owes:
            parcel.lose(f"it still owes the answer to question {self.seat.owes}")
        elif (rest := self._rests_until - time.monotonic()) > 0:
            parcel.lose(f"{self._missed} answers in a row were late; asked again in {rest:.1f} s")
        else:
            self.seat.put(parcel)

    def conclude(self, parcel: Parcel, waited: float) -> None:
        """Whoever asked has stopped waiting, after ``waited`` seconds that this one cost alone.

        Whoever is late once is asked again as soon as it has answered. Whoever is late again and
        again rests for as long as its delays have cost, doubled at each.
        """
        if parcel.outcome.done():
            return
        if parcel in self._orphans:
            self._orphans.remove(parcel)
        elif self.seat is not None:
            self.seat.release(parcel)
        if waited:
            self._missed += 1
            rest = waited * (2 ** min(self._missed - 1, MOST_DOUBLINGS) - 1)
            self._rests_until = time.monotonic() + min(rest, self._patience)

    def dismiss(self, why: str) -> None:
        """Ends its session, and the wait for whatever it was asked."""
        if self.seat is not None:
            self.seat.dismiss(why)
        for parcel in self._orphans:
            parcel.lose(why)
        self._orphans.clear()

    def _punctual(self) -> None:
        self._missed = 0

    def _vacate(self, seat: Seat) -> None:
        why = self.counters.ended
        for parcel in seat.unanswered():
            if seat.returns and parcel.returns and parcel.tries < TRIES:
                self._orphans.append(parcel)
            else:
                parcel.lose(why)
        self.seat = None


def _lasting(card: Card) -> Card:
    """What of ``card`` may not change: an owner may release more or less after a restart."""
    return replace(
        card,
        signals=frozenset(),
        pull_back=False,
        samples=None,
        largest_batch=1,
        class_counts=None,
        scores=False,
        recipes=0,
    )
