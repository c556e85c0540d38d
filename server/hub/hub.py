"""The hub: a gRPC server in a thread of its own, with blocking calls that query institutions.

Institutions connect to it and stay; the coordinator asks them through it. Safe for threads.
"""

import asyncio
import itertools
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Self

from fedkd.experiment import ADAPTIVE, ALL, Linger
from fedkd.process.open_file_limit import OTHER_OPEN_FILES, raise_open_file_limit
from fedkd.protocol import Answers, Ask, Card, PullBack, Refusal, Reply
from fedkd.server.hub.admission import Admission, RunToken
from fedkd.server.hub.bans import Bans, Exclusion
from fedkd.server.hub.handshake import Handshakes
from fedkd.server.hub.health import add_health
from fedkd.server.hub.linger import wait_for_outcomes
from fedkd.server.hub.participant import NEVER_CONNECTED, Participant
from fedkd.server.hub.participant_session import PARTING_SECONDS, ParticipantCounters
from fedkd.server.hub.pending_query import PendingQuery, collect_outcomes
from fedkd.server.hub.query_encoding import QueryEncodings
from fedkd.server.hub.quorum_error import quorum_lost
from fedkd.server.hub.turned_away import TurnedAway
from fedkd.wire import Query, Role, Session
from fedkd.wire.grpc_channels import create_server, grpc, host_of
from fedkd.wire.payload_framing import MAX_MESSAGE_BYTES

MAX_INSTITUTIONS = 1024
"""Sessions at a time, unless a hub is told otherwise: each costs memory and a file descriptor."""
LATE_ANSWER_SECONDS = 600.0
"""How long an answer that nobody waits for may be overdue before its session ends."""
RUN_OVER = "the run is over"


class Hub:
    """A gRPC server for institutions, and the calls by which a coordinator queries them.

    It listens from its construction until `close`; as a context manager it closes itself. An
    institution that sends malformed messages or violates the protocol loses its session and is
    banned: its name is refused for the rest of the run. One that loses its connection may
    reconnect, and one whose answer is overdue is not asked anything before it has answered.

    Args:
        admission: decides who is admitted; a str is a token that all institutions share.
        address: host:port, with port 0 for any that is free.
        credentials: TLS; without them only this machine can connect. If they require client
            certificates, an institution's name must stand in its own.
        max_message_bytes: size limit of one message.
        late_answer_seconds: how long an answer that nobody waits for may be overdue; the
            institution's session then ends.
        known: cards of the participants of an interrupted run, which may not change.
        bans: of an interrupted run too, with the file that stores them.
        max_institutions: sessions that may be open at a time; one more is told to try again.
        misfit: why an institution with that card is turned away, in one line; None: it is not.

    Raises:
        SettingsError: the address is not available, or would accept plain text from other machines.
    """

    def __init__(
        self,
        admission: Admission | str,
        address: str = "127.0.0.1:0",
        credentials: grpc.ServerCredentials | None = None,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        late_answer_seconds: float = LATE_ANSWER_SECONDS,
        known: Iterable[Card] = (),
        bans: Bans | None = None,
        max_institutions: int = MAX_INSTITUTIONS,
        misfit: Callable[[Card], str | None] = lambda card: None,
    ) -> None:
        self._admission = RunToken(admission) if isinstance(admission, str) else admission
        self._late_answer_seconds, self._max_institutions = late_answer_seconds, max_institutions
        self._numbers = itertools.count(1)
        self._submitting = threading.Lock()  # numbers must reach every session in their order
        self._presence = threading.Condition()  # guards the participants and their sessions
        self._bans = Bans() if bans is None else bans
        self._participants = {card.name: self._participant(card) for card in known}
        self._handshakes = Handshakes()
        self._turned_away = TurnedAway(misfit)
        raise_open_file_limit(max_institutions + OTHER_OPEN_FILES)
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
        """host:port to which institutions connect."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def cards(self) -> tuple[Card, ...]:
        """Of the connected institutions, by name."""
        with self._presence:
            sessions = [each.session for each in self._participants.values()]
        cards = (session.card for session in sessions if session)
        fitting = (card for card in cards if card.name not in self._turned_away)
        return tuple(sorted(fitting, key=lambda card: card.name))

    @property
    def turned_away(self) -> Mapping[str, str]:
        """Institutions whose last card did not fit, with reasons."""
        return self._turned_away.reasons

    @property
    def counters(self) -> Mapping[str, ParticipantCounters]:
        """Of every institution that was ever connected."""
        with self._presence:
            return {name: each.counters.copy() for name, each in self._participants.items()}

    def wait_for(self, count: int, timeout: float) -> tuple[Card, ...]:
        """Cards of the connected institutions, once there are ``count``.

        Raises:
            QuorumLost: fewer came within ``timeout`` seconds.
        """
        with self._presence:
            self._presence.wait_for(lambda: len(self.cards) >= count, timeout)
        cards = self.cards
        if len(cards) < count:
            raise quorum_lost(cards, count, timeout, self.turned_away)
        return cards

    def submit(self, name: str, request: Ask | PullBack) -> "Future[Reply | Refusal]":
        """Asks one institution; does not block.

        Returns:
            Its reply or refusal. Tensors in it are views of received bytes, not to be written to.
            It fails with a RemoteProtocolError if the session ends first. Cancelling it withdraws
            a question that was not sent yet.

        Raises:
            LocalProtocolError: the request is not valid.
        """
        return self._submit_all({name: request}, retry=False)[name].outcome

    def ask(
        self,
        requests: Mapping[str, Ask | PullBack],
        timeout: float,
        *,
        quorum: int = 0,
        linger: Linger = ALL,
    ) -> tuple[Answers, dict[str, Refusal | str]]:
        """Asks several institutions and waits at most ``timeout`` seconds for all of them.

        A query whose session is lost is sent again under its number, if the institution
        reconnects in time. One that is not connected, or overdue, counts as absent at once.

        Args:
            requests: by name of institution.
            timeout: seconds, > 0.
            quorum: how many of them must be connected before any is asked; waits for them.
            linger: seconds that the others may take once ``quorum``, and at least one, have
                answered; `ADAPTIVE`, or `ALL` for the whole of ``timeout``.

        Returns:
            The replies, and for each other institution its refusal, or the reason why there is
            no answer: a `BanReason` if it is banned, an `Exclusion` if by the operator. An answer
            that comes later is dropped.

        Raises:
            LocalProtocolError: a request is not valid.
        """
        self.refresh_bans()
        self._await_quorum(requests.keys(), quorum, timeout)
        queries = self._submit_all(requests, retry=True)
        waited, why = timeout, f"no answer within {timeout:g} s"
        try:
            outcomes = [query.outcome for query in queries.values()]
            lingered = wait_for_outcomes(outcomes, timeout, max(1, quorum), linger)
            if lingered is not None:
                # Who is late by a fixed linger is merely slower than the operator likes.
                waited = lingered if linger == ADAPTIVE else 0.0
                why = f"no answer within {lingered:.3g} s after the quorum's"
            return collect_outcomes(queries, why)
        finally:
            # To wake the hub's thread costs as much as to read an answer.
            if not all(query.outcome.done() for query in queries.values()):
                self._call_on_hub_thread(self._stop_waiting, queries, waited)

    def disconnect(self, name: str, why: str) -> None:
        """Ends the session of an institution that does not fit this run, with the reason."""
        self._call_on_hub_thread(self._close_session, name, why)

    def turn_away(self, card: Card, why: str) -> None:
        """Ends the session of an institution whose card does not fit; another card may come."""
        self._turned_away.add(card, why, never_asked=True)
        self._call_on_hub_thread(self._close_session, card.name, why, True)

    def refresh_bans(self) -> Mapping[str, Exclusion]:
        """Ends the sessions of those whom the operator has excluded; all of them, with reasons."""
        for name in self._bans.refresh():
            self.disconnect(name, str(self._bans.reason(name)))
        return self._bans.excluded

    def close(self) -> None:
        """Closes all sessions and stops the server. Calling it again does nothing."""
        with self._submitting:
            if self._thread.is_alive():
                self._loop.call_soon_threadsafe(self._run_over.set)
                self._thread.join()
        with self._presence:
            self._presence.notify_all()

    def _await_quorum(self, names: Collection[str], quorum: int, timeout: float) -> None:
        """Waits until ``quorum`` of ``names`` are connected, or can no longer be."""
        needed = min(quorum, len(names))

        def settled() -> bool:
            each = [self._participants.get(name) for name in names]
            connected = sum(one is not None and one.session is not None for one in each)
            banned = sum(name in self._bans for name in names)
            possible = len(each) - banned if self._thread.is_alive() else 0
            return connected >= needed or possible < needed

        with self._presence:
            self._presence.wait_for(settled, timeout)

    def _submit_all(
        self, requests: Mapping[str, Ask | PullBack], *, retry: bool
    ) -> dict[str, PendingQuery]:
        encodings: dict[int, QueryEncodings] = {}
        with self._submitting:
            for request in requests.values():
                if id(request) not in encodings:  # an Ask that several share is encoded once
                    encodings[id(request)] = QueryEncodings(Query(next(self._numbers), request))
            # Only now: if one request is not valid, nobody is asked.
            queries = {
                name: PendingQuery(encodings[id(request)], Future(), retry)
                for name, request in requests.items()
            }
            if self._thread.is_alive():
                self._loop.call_soon_threadsafe(self._distribute, queries)
            else:
                for query in queries.values():
                    query.fail(RUN_OVER)
        return queries

    def _call_on_hub_thread(self, call: Callable[..., None], *arguments: object) -> None:
        """Makes a call in the hub's thread, if that still runs."""
        with self._submitting:
            if self._thread.is_alive():
                self._loop.call_soon_threadsafe(call, *arguments)

    # --- on the hub's own thread

    def _distribute(self, queries: Mapping[str, PendingQuery]) -> None:
        for name, query in queries.items():
            if reason := self._bans.reason(name):
                query.fail(reason)
            elif participant := self._participants.get(name):
                participant.submit(query)
            else:
                query.fail(NEVER_CONNECTED)

    def _stop_waiting(self, queries: Mapping[str, PendingQuery], waited: float) -> None:
        for name, query in queries.items():
            if participant := self._participants.get(name):
                participant.stop_waiting(query, waited)

    def _close_session(self, name: str, why: str, refused: bool = False) -> None:
        if participant := self._participants.get(name):
            (participant.refuse if refused else participant.close)(why)

    async def _serve(
        self,
        started: "Future[int]",
        address: str,
        credentials: grpc.ServerCredentials | None,
        max_message_bytes: int,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._run_over = asyncio.Event()
        try:
            server, port = create_server(self._connect, address, credentials, max_message_bytes)
            announce_shutdown = add_health(server)
            await server.start()
        except Exception as error:  # to be raised in the thread that made the hub
            started.set_exception(error)
            return
        started.set_result(port)
        await self._run_over.wait()
        announce_shutdown()
        for participant in self._participants.values():
            participant.close(RUN_OVER)
        # Calls that end by themselves end cleanly on both sides; gRPC logs a traceback for each
        # call that it has to cancel.
        if self._calls:
            await asyncio.wait(self._calls, timeout=PARTING_SECONDS)
        await server.stop(PARTING_SECONDS / 2)

    async def _connect(self, stream: grpc.aio.ServicerContext) -> None:
        """Serves one stream, from its Hello to its end."""
        if call := asyncio.current_task():
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
        protocol = Session(Role.COORDINATOR)
        card = await self._handshakes.perform(stream, protocol, self._admission)
        if card is None:
            return
        if rejection := self._rejection(card):
            await stream.abort(*rejection)
        with self._presence:
            self._turned_away.discard(card.name)
            participant = self._participants.setdefault(card.name, self._participant(card))
            session = participant.open_session(card, stream, protocol)
            self._presence.notify_all()
        try:
            await session.serve()
        finally:
            with self._presence:
                self._presence.notify_all()

    def _participant(self, card: Card) -> Participant:
        return Participant(card, self._late_answer_seconds, partial(self._bans.add, card.name))

    def _rejection(self, card: Card) -> tuple[grpc.StatusCode, str] | None:
        most = self._max_institutions
        if self._run_over.is_set():
            return grpc.StatusCode.UNAVAILABLE, RUN_OVER
        if reason := self._bans.reason(card.name):
            return grpc.StatusCode.PERMISSION_DENIED, f"banned from this run: {reason}"
        if why := self._turned_away.check(card):
            return grpc.StatusCode.FAILED_PRECONDITION, why
        participant = self._participants.get(card.name)
        if self._turned_away.may_change(card.name) and not (participant and participant.session):
            with self._presence:
                self._participants.pop(card.name, None)
        elif participant and (rejection := participant.rejection(card)):
            return rejection
        if sum(each.session is not None for each in self._participants.values()) >= most:
            full = f"all {most} places are taken; try again later"
            return grpc.StatusCode.RESOURCE_EXHAUSTED, full
        return None
