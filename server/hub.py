"""The hub: one gRPC server, to which institutions dial in, behind calls that block.

It knows no method and no student: it carries questions out and answers back.
"""

import asyncio
import hmac
import itertools
import threading
from collections.abc import Collection, Mapping
from concurrent.futures import Future, wait
from dataclasses import replace
from types import TracebackType
from typing import Self

from fedkd.errors import QuorumLost, RemoteProtocolError, SettingsError
from fedkd.signals import Answers, Ask, Card, PullBack, Refusal, Reply
from fedkd.wire.channel import grpc, host_of, listen
from fedkd.wire.codec import decode_from_institution, encode
from fedkd.wire.framing import MAX_MESSAGE_BYTES
from fedkd.wire.messages import VERSION, Hello, Question
from fedkd.wire.session import Role, Session
from server.seat import PARTING_SECONDS, Counters, Parcel, Seat

HELLO_SECONDS = 10.0
"""For whoever connects to say who it is."""
MOST_INSTITUTIONS = 256
OVER = "the run is over"


class Hub:
    """Institutions dial in and stay; the coordinator asks them. Safe for threads.

    It listens from its construction until `close`; as a context manager it closes itself. An
    institution that sends garbage or breaks the law of the session loses its session, and nothing
    else happens.

    Args:
        token: of this run; whoever does not know it is turned away.
        address: host:port, with port 0 for any that is free.
        credentials: TLS; without them only this machine can dial in. Where they ask institutions
            for certificates, an institution's name must stand in its own.
        max_message_bytes: most that an institution may say at once.

    Raises:
        SettingsError: the address cannot be had, or would be plain text for other machines.
    """

    def __init__(
        self,
        token: str,
        address: str = "127.0.0.1:0",
        credentials: grpc.ServerCredentials | None = None,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        if not token:
            raise SettingsError("an empty token would let anyone in; give the run a secret one")
        self._token = token
        self._numbers = itertools.count(1)
        self._asking = threading.Lock()  # numbers must reach every session in their order
        self._presence = threading.Condition()  # guards the two below
        self._seats: dict[str, Seat] = {}
        self._counters: dict[str, Counters] = {}
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
            return tuple(self._seats[name].card for name in sorted(self._seats))

    @property
    def counters(self) -> Mapping[str, Counters]:
        """What passed so far, for every institution that was ever here."""
        with self._presence:
            return {name: replace(counters) for name, counters in self._counters.items()}

    def wait_for(self, count: int, timeout: float) -> tuple[Card, ...]:
        """Cards of the institutions that are here, once ``count`` of them are.

        Raises:
            QuorumLost: fewer came within ``timeout`` seconds.
        """
        with self._presence:
            self._presence.wait_for(lambda: len(self._seats) >= count, timeout)
        cards = self.cards
        if len(cards) < count:
            present = ", ".join(card.name for card in cards) or "none"
            raise QuorumLost(
                f"{len(cards)} institutions came within {timeout:g} s ({present}), expected "
                f"{count}; start the agents that are missing, or ask for fewer"
            )
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
        return self._put_all({name: request})[name]

    def ask(
        self, requests: Mapping[str, Ask | PullBack], timeout: float
    ) -> tuple[Answers, dict[str, Refusal | str]]:
        """Asks several institutions, by name, and waits at most ``timeout`` seconds for all.

        Returns:
            The replies, and for whoever else was asked its refusal, or in words why there is none.
            An answer that comes later is dropped.

        Raises:
            LocalProtocolError: a request cannot be asked of anybody.
        """
        outcomes = self._put_all(requests)
        done = wait(outcomes.values(), timeout).done
        answers: dict[str, Reply] = {}
        absent: dict[str, Refusal | str] = {}
        for name, outcome in outcomes.items():
            if outcome not in done:
                outcome.cancel()
                absent[name] = f"no answer within {timeout:g} s"
            elif error := outcome.exception():
                absent[name] = str(error)
            elif isinstance(result := outcome.result(), Refusal):
                absent[name] = result
            else:
                answers[name] = _own(result)
        return answers, absent

    def close(self) -> None:
        """Tells everyone that the run is over, and stops. Calling it again does nothing."""
        with self._asking:
            if self._thread.is_alive():
                self._loop.call_soon_threadsafe(self._over.set)
                self._thread.join()

    def _put_all(
        self, requests: Mapping[str, Ask | PullBack]
    ) -> dict[str, "Future[Reply | Refusal]"]:
        encoded: dict[int, tuple[Question, bytes]] = {}
        with self._asking:
            for request in requests.values():
                if id(request) not in encoded:  # one Ask for everybody is encoded once
                    question = Question(next(self._numbers), request)
                    encoded[id(request)] = question, encode(question)
            # Only now: where one of them cannot be asked, none is.
            parcels = {
                name: Parcel(*encoded[id(request)], Future()) for name, request in requests.items()
            }
            for name, parcel in parcels.items():
                if self._thread.is_alive():
                    self._loop.call_soon_threadsafe(self._deliver, name, parcel)
                else:
                    parcel.lose(OVER)
        return {name: parcel.outcome for name, parcel in parcels.items()}

    # --- on the hub's own thread

    def _deliver(self, name: str, parcel: Parcel) -> None:
        if seat := self._seats.get(name):
            seat.put(parcel)
        else:
            ended = self._counters[name].ended if name in self._counters else "it never came"
            parcel.lose(ended)

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
            server, port = listen(
                self._connect, address, credentials, max_message_bytes, MOST_INSTITUTIONS
            )
            await server.start()
        except Exception as error:  # to be raised where the hub was called
            started.set_exception(error)
            return
        started.set_result(port)
        await self._over.wait()
        for seat in self._seats.values():
            seat.dismiss(OVER)
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
        card = await self._greet(stream, session)
        if card is None:
            return
        with self._presence:
            counters = self._counters.setdefault(card.name, Counters())
            counters.ended = ""
            seat = self._seats[card.name] = Seat(card, stream, session, counters)
            self._presence.notify_all()
        try:
            await seat.serve()
        finally:
            with self._presence:
                del self._seats[card.name]
                self._presence.notify_all()

    async def _greet(self, stream: grpc.aio.ServicerContext, session: Session) -> Card | None:
        """Hears a Hello; whoever may not come in is told why by a status, as gRPC has it."""
        try:
            data = await asyncio.wait_for(stream.read(), HELLO_SECONDS)
        except TimeoutError:
            await stream.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "no Hello came")
        if data is grpc.aio.EOF:
            return None
        hello = decode_from_institution(data)
        try:
            session.receive(hello)
        except RemoteProtocolError as error:
            await stream.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        if not isinstance(hello, Hello):
            return None
        if objection := self._objection(hello, stream.peer_identities()):
            await stream.abort(*objection)
        return hello.card

    def _objection(
        self, hello: Hello, certified: Collection[bytes] | None
    ) -> tuple[grpc.StatusCode, str] | None:
        """Why whoever says ``hello`` may not come in; None where it may."""
        code, name = grpc.StatusCode, hello.card.name
        if hello.version != VERSION:
            return code.FAILED_PRECONDITION, (
                f"version {hello.version} of the wire, expected {VERSION}; "
                "install the release of fedkd that the coordinator runs"
            )
        if not hmac.compare_digest(hello.token.encode(), self._token.encode()):
            return code.UNAUTHENTICATED, "the token is not of this run; ask the coordinator for it"
        if certified is not None and name.encode() not in certified:
            return code.PERMISSION_DENIED, f"the certificate does not speak for {name!r}"
        if name in self._seats:
            return code.ALREADY_EXISTS, f"{name!r} is here already; choose another name"
        return None


def _own(reply: Reply) -> Reply:
    """``reply`` with tensors of its own, so that the message's bytes can go."""
    gradient = None if reply.gradient is None else reply.gradient.clone()
    return Reply({signal: said.clone() for signal, said in reply.signals.items()}, gradient)
