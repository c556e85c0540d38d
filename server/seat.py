"""One institution's place at the hub: one open session. Knows no other seat and no loop of ours.

Everything here runs on the hub's thread, but for the futures, which a caller may hold.
"""

import asyncio
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass

from fedkd.errors import RemoteProtocolError
from fedkd.signals import Ask, Card, Refusal, Reply
from fedkd.wire.channel import grpc
from fedkd.wire.codec import decode_from_institution, encode
from fedkd.wire.messages import VERSION, Answer, Close, Declined, Question, Welcome
from fedkd.wire.session import MAX_IN_FLIGHT, Session

PARTING_SECONDS = 0.5
"""For an institution to hear why its session ends."""
LOST = "the connection was lost"


@dataclass
class Counters:
    """What passed between the hub and one institution, over all its sessions of a run.

    Attributes:
        bytes_sent: of questions, as encoded; gRPC's own framing comes on top.
        bytes_received: of everything that it said, likewise.
        samples_asked: images in Asks that were sent to it, whether or not it answered.
        samples_pulled_back: images in PullBacks that were sent to it, likewise.
        refusals: questions that it declined.
        strikes: sessions that it ended by breaking the law.
        ended: why its last session ended; empty while it is here.
    """

    bytes_sent: int = 0
    bytes_received: int = 0
    samples_asked: int = 0
    samples_pulled_back: int = 0
    refusals: int = 0
    strikes: int = 0
    ended: str = ""


@dataclass(frozen=True, eq=False)
class Parcel:
    """A question on its way, as bytes that may be shared with other seats."""

    question: Question
    data: bytes
    outcome: "Future[Reply | Refusal]"

    def lose(self, why: str) -> None:
        """Ends the wait for a question that was never sent."""
        if self.outcome.set_running_or_notify_cancel():
            self.outcome.set_exception(RemoteProtocolError(why))


class Seat:
    """Puts questions to one institution, at most MAX_IN_FLIGHT at a time, and hears its answers."""

    def __init__(
        self, card: Card, stream: grpc.aio.ServicerContext, session: Session, counters: Counters
    ) -> None:
        self.card = card
        self._stream = stream
        self._session = session
        self._counters = counters
        self._waiting: deque[Parcel] = deque()
        self._sent: dict[int, Future[Reply | Refusal]] = {}
        self._wake = asyncio.Event()
        self._ending: str | None = None
        self._listens = True

    def put(self, parcel: Parcel) -> None:
        """Takes a question, to be sent when its turn comes."""
        if self._ending is not None:
            parcel.lose(self._ending)
            return
        # Whoever stopped waiting for an institution that stalls must not fill the memory.
        while self._waiting and self._waiting[0].outcome.cancelled():
            self._waiting.popleft()
        self._waiting.append(parcel)
        self._wake.set()

    def dismiss(self, why: str) -> None:
        """Ends the session: no more questions, a Close if it still listens."""
        if self._ending is None:
            self._ending = why
        self._wake.set()

    async def serve(self) -> None:
        """Lives as long as the session; every question has an outcome when it returns."""
        reader = asyncio.create_task(self._read())
        writer = asyncio.create_task(self._write())
        try:
            await asyncio.wait({reader, writer}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({writer}, timeout=PARTING_SECONDS)
        finally:
            reader.cancel()
            writer.cancel()
            self._settle()  # before anything awaits: who waits for an answer must not be forgotten
            ends = await asyncio.gather(reader, writer, return_exceptions=True)
        for end in ends:
            if isinstance(end, Exception) and not isinstance(end, grpc.aio.BaseError):
                raise end

    async def _write(self) -> None:
        welcome = Welcome(VERSION)
        self._session.send(welcome)
        await self._stream.write(encode(welcome))
        while self._ending is None:
            if not self._waiting or self._session.in_flight == MAX_IN_FLIGHT:
                self._wake.clear()
                await self._wake.wait()
                continue
            parcel = self._waiting.popleft()
            if parcel.outcome.set_running_or_notify_cancel():
                await self._send(parcel)
        if self._listens:
            farewell = Close(self._ending)
            self._session.send(farewell)
            await self._stream.write(encode(farewell))

    async def _send(self, parcel: Parcel) -> None:
        question = parcel.question
        self._session.send(question)
        self._sent[question.id] = parcel.outcome
        if isinstance(question.request, Ask):
            self._counters.samples_asked += len(question.request.images)
        else:
            self._counters.samples_pulled_back += len(question.request.images)
        self._counters.bytes_sent += len(parcel.data)
        await self._stream.write(parcel.data)

    async def _read(self) -> None:
        while self._ending is None:
            data = await self._stream.read()
            if data is grpc.aio.EOF:
                self._leaves(LOST)
                return
            self._counters.bytes_received += len(data)
            try:
                self._hear(data)
            except RemoteProtocolError as error:
                self._counters.strikes += 1
                self._stream.set_code(grpc.StatusCode.INVALID_ARGUMENT)
                self.dismiss(str(error))

    def _hear(self, data: bytes) -> None:
        message = decode_from_institution(data)
        self._session.receive(message)
        match message:
            case Answer(number, reply):
                self._sent.pop(number).set_result(reply)
            case Declined(number, refusal):
                self._counters.refusals += 1
                self._sent.pop(number).set_result(refusal)
            case Close(reason):
                self._leaves(f"it left: {reason}")
        self._wake.set()

    def _leaves(self, why: str) -> None:
        self._listens = False
        self.dismiss(why)

    def _settle(self) -> None:
        self.dismiss(LOST)
        why = self._counters.ended = self._ending or LOST
        for outcome in self._sent.values():
            outcome.set_exception(RemoteProtocolError(why))
        for parcel in self._waiting:
            parcel.lose(why)
