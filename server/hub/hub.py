"""The hub: one gRPC server, to which institutions dial in, behind calls that block.

It knows no method and no student: it carries questions out and answers back.
"""

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Self

from fedkd.errors import QuorumLost
from fedkd.protocol.signals import Answers, Ask, Card, PullBack, Refusal, Reply
from fedkd.server.hub.admission import Admission, RunToken
from fedkd.server.hub.bans import Strikes
from fedkd.server.hub.handshake import greet
from fedkd.server.hub.health import add_health
from fedkd.server.hub.participant import ABSENT, Member
from fedkd.server.hub.pending_query import Parcel, await_outcomes, sorted_out
from fedkd.server.hub.query_encoding import Letter
from fedkd.server.hub.session import PARTING_SECONDS, Counters
from fedkd.wire.channel import grpc, host_of, listen
from fedkd.wire.framing import MAX_MESSAGE_BYTES
from fedkd.wire.messages import Question
from fedkd.wire.session import Role, Session

MOST_INSTITUTIONS = 256
MOST_PROBES = 16
"""Calls to the health service at a time, beside the institutions' sessions."""
PATIENCE = 600.0
"""Seconds that an institution may owe an answer for which nobody waits any more."""
OVER = "the run is over"


class Hub:
    """Institutions dial in and stay; the coordinator asks them. Safe for threads.

    It listens from its construction until `close`; as a context manager it closes itself. An
    institution that sends garbage or breaks the law of the session loses its session and is struck
    off: its name may not come back. Nothing else happens. One that loses its connection may come
    back, and one that is late is not asked anything before it has answered.

    Args:
        admission: who may come in; a str is the secret of this run, known to all who may.
        address: host:port, with port 0 for any that is free.
        credentials: TLS; without them only this machine can dial in. Where they ask institutions
            for certificates, an institution's name must stand in its own.
        max_message_bytes: most that an institution may say at once.
        patience: seconds that an institution may owe a late answer; its session then ends.
        known: cards of whoever took part in an earlier life of the run, and is to come back as it
            was then.
        strikes: who is struck off, from earlier lives too, and where that is kept.

    Raises:
        SettingsError: the address cannot be had, or would be plain text for other machines.
    """

    def __init__(
        self,
        admission: Admission | str,
        address: str = "127.0.0.1:0",
        credentials: grpc.ServerCredentials | None = None,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        patience: float = PATIENCE,
        known: Iterable[Card] = (),
        strikes: Strikes | None = None,
    ) -> None:
        self._admission = RunToken(admission) if isinstance(admission, str) else admission
        self._patience = patience
        self._numbers = itertools.count(1)
        self._asking = threading.Lock()  # numbers must reach every session in their order
        self._presence = threading.Condition()  # guards who is a member, and who is here
        self._strikes = Strikes() if strikes is None else strikes
        self._members = {card.name: self._member(card) for card in known}
        self._calls: set[asyncio.Task[object]] = set()
        started: Future[int] = Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(
                self._serve(started, address, credentials, max_message_bytes)
            ),
            name="fedkd-hub",
            daemon=True,
        )
        self._thread.start()
        port = started.result()
        self.address = f"{host_of(address)}:{port}"
        """Where institutions dial in: host:port."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def cards(self) -> tuple[Card, ...]:
        """Of the institutions that are here, by name."""
        with self._presence:
            seats = [member.seat for member in self._members.values()]
        return tuple(sorted((seat.card for seat in seats if seat), key=lambda card: card.name))

    @property
    def counters(self) -> Mapping[str, Counters]:
        """What passed so far, for every institution that was ever here."""
        with self._presence:
            return {name: replace(member.counters) for name, member in self._members.items()}

    def wait_for(self, count: int, timeout: float) -> tuple[Card, ...]:
        """Cards of the institutions that are here, once ``count`` of them are.

        Raises:
            QuorumLost: fewer came within ``timeout`` seconds.
        """
        with self._presence:
            self._presence.wait_for(lambda: len(self.cards) >= count, timeout)
        cards = self.cards
        if len(cards) < count:
            raise too_few(cards, count, timeout)
        return cards

    def put(self, name: str, request: Ask | PullBack) -> "Future[Reply | Refusal]":
        """Asks one institution; does not block.

        Returns:
            What comes of it. Tensors in it are views of received bytes, not to be written to. It
            fails with a RemoteProtocolError where the session ends first. Cancelling it takes the
            question back if it was not sent yet.

        Raises:
            LocalProtocolError: the request cannot be asked of anybody.
        """
        return self._put_all({name: request}, returns=False)[name].outcome

    def ask(
        self,
        requests: Mapping[str, Ask | PullBack],
        timeout: float,
        *,
        quorum: int = 0,
        linger: float | None = None,
    ) -> tuple[Answers, dict[str, Refusal | str]]:
        """Asks several institutions, by name, and waits at most ``timeout`` seconds for all.

        A question whose session is lost is put again under its number, if the institution is back
        in time. Whoever is not here, or owes an answer, is absent at once.

        Args:
            requests: what each is asked.
            timeout: seconds, > 0.
            quorum: of them must be here, or ``timeout`` have passed, before anybody is asked.
            linger: seconds that the others may take once ``quorum``, and at least one, have
                answered; None for the whole of ``timeout``.

        Returns:
            The replies, and for whoever else was asked its refusal, or in words why there is none:
            a `Struck` where it may not come back. An answer that comes later is dropped.

        Raises:
            LocalProtocolError: a request cannot be asked of anybody.
        """
        self._await_quorum(requests.keys(), quorum, timeout)
        deadline = time.monotonic() + timeout
        parcels = self._put_all(requests, returns=True)
        waited = 0.0
        try:
            outcomes = [parcel.outcome for parcel in parcels.values()]
            await_outcomes(outcomes, deadline, max(1, quorum), linger)
            if linger is None or time.monotonic() >= deadline:
                waited, why = timeout, f"no answer within {timeout:g} s"
            else:
                why = f"no answer within {linger:g} s after the quorum's"
            return sorted_out(parcels, why)
        finally:
            # To wake the hub's thread costs as much as to read an answer.
            if not all(parcel.outcome.done() for parcel in parcels.values()):
                self._tell(self._conclude, parcels, waited)

    def turn_away(self, name: str, why: str) -> None:
        """Ends the session of an institution that has no place in this run, and tells it why."""
        self._tell(self._dismiss, name, why)

    def close(self) -> None:
        """Tells everyone that the run is over, and stops. Calling it again does nothing."""
        with self._asking:
            if self._thread.is_alive():
                self._loop.call_soon_threadsafe(self._over.set)
                self._thread.join()
        with self._presence:
            self._presence.notify_all()

    def _await_quorum(self, names: Collection[str], quorum: int, timeout: float) -> None:
        """Waits for ``quorum`` of ``names`` to be here, as long as that can be."""
        fewest = min(quorum, len(names))

        def settled() -> bool:
            members = [self._members.get(name) for name in names]
            here = sum(member is not None and member.seat is not None for member in members)
            hopeless = sum(name in self._strikes for name in names)
            possible = len(members) - hopeless if self._thread.is_alive() else 0
            return here >= fewest or possible < fewest

        with self._presence:
            self._presence.wait_for(settled, timeout)

    def _put_all(
        self, requests: Mapping[str, Ask | PullBack], *, returns: bool
    ) -> dict[str, Parcel]:
        letters: dict[int, Letter] = {}
        with self._asking:
            for request in requests.values():
                if id(request) not in letters:  # one Ask for everybody is encoded once
                    letters[id(request)] = Letter(Question(next(self._numbers), request))
            # Only now: where one of them cannot be asked, none is.
            parcels = {
                name: Parcel(letters[id(request)], Future(), returns)
                for name, request in requests.items()
            }
            if self._thread.is_alive():
                self._loop.call_soon_threadsafe(self._deliver, parcels)
            else:
                for parcel in parcels.values():
                    parcel.lose(OVER)
        return parcels

    def _tell(self, call: Callable[..., None], *said: object) -> None:
        """Has the hub's thread make a call, if there still is one."""
        with self._asking:
            if self._thread.is_alive():
                self._loop.call_soon_threadsafe(call, *said)

    # --- on the hub's own thread

    def _deliver(self, parcels: Mapping[str, Parcel]) -> None:
        for name, parcel in parcels.items():
            if struck := self._strikes.why(name):
                parcel.lose(struck)
            elif member := self._members.get(name):
                member.put(parcel)
            else:
                parcel.lose(ABSENT)

    def _conclude(self, parcels: Mapping[str, Parcel], waited: float) -> None:
        for name, parcel in parcels.items():
            if member := self._members.get(name):
                member.conclude(parcel, waited)

    def _dismiss(self, name: str, why: str) -> None:
        if member := self._members.get(name):
            member.dismiss(why)

    async def _serve(
        self,
        started: "Future[int]",
        address: str,
        credentials: grpc.ServerCredentials | None,
        max_message_bytes: int,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        try:
            calls = MOST_INSTITUTIONS + MOST_PROBES
            server, port = listen(self._connect, address, credentials, max_message_bytes, calls)
            say_over = await add_health(server)
            await server.start()
        except Exception as error:  # to be raised where the hub was called
            started.set_exception(error)
            return
        started.set_result(port)
        await self._over.wait()
        await say_over()
        for member in self._members.values():
            member.dismiss(OVER)
        # Calls that end by themselves end well at the other side, and in silence at this one:
        # gRPC logs a traceback for each that it has to cut.
        if self._calls:
            await asyncio.wait(self._calls, timeout=PARTING_SECONDS)
        await server.stop(PARTING_SECONDS / 2)

    async def _connect(self, stream: grpc.aio.ServicerContext) -> None:
        """One stream, from its Hello to its end."""
        if call := asyncio.current_task():
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
        session = Session(Role.COORDINATOR)
        card = await greet(stream, session, self._admission)
        if card is None:
            return
        if objection := self._objection(card):
            await stream.abort(*objection)
        with self._presence:
            member = self._members.setdefault(card.name, self._member(card))
            seat = member.sit(card, stream, session)
            self._presence.notify_all()
        try:
            await seat.serve()
        finally:
            with self._presence:
                self._presence.notify_all()

    def _member(self, card: Card) -> Member:
        return Member(card, self._patience, partial(self._strikes.add, card.name))

    def _objection(self, card: Card) -> tuple[grpc.StatusCode, str] | None:
        if self._over.is_set():
            return grpc.StatusCode.UNAVAILABLE, OVER
        if struck := self._strikes.why(card.name):
            return grpc.StatusCode.PERMISSION_DENIED, f"struck off this run: {struck}"
        member = self._members.get(card.name)
        return member.objection(card) if member else None


def too_few(cards: Sequence[Card], count: int, timeout: float) -> QuorumLost:
    """That of ``count`` institutions only those of ``cards`` came within ``timeout`` seconds."""
    present = ", ".join(card.name for card in cards) or "none"
    return QuorumLost(
        f"{len(cards)} institutions came within {timeout:g} s ({present}), expected {count}; start "
        "the agents that are missing, or ask for fewer"
    )
