"""One institution's place at the hub: one open session. Knows no other seat and no loop of ours.

Everything here runs on the hub's thread.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from fedkd.errors import RemoteProtocolError
from fedkd.protocol.signals import Ask, Card, Reason, Refusal, Reply
from fedkd.server.hub.bans import Struck
from fedkd.server.hub.pending_query import Parcel
from fedkd.server.hub.query_encoding import Wording
from fedkd.wire.channel import grpc
from fedkd.wire.codec import decode_from_institution, encode
from fedkd.wire.messages import VERSION, Answer, Close, Declined, Named, Welcome
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
        samples_asked: images in Asks that were sent to it, whether or not it answered. A question
            that is put again counts once.
        samples_pulled_back: images in PullBacks that were sent to it, likewise.
        questions: that were sent to it, likewise.
        answers: that came, late ones included.
        seconds: from each of these questions to its answer, added up.
        refusals: questions that it declined.
        recipes: times that a question named its images and did not show them.
        misdrawn: of these, those that it could not draw, so that the images were shown after all.
        strikes: sessions that it ended by breaking the law.
        ended: why its last session ended; empty while it is here.
    """

    bytes_sent: int = 0
    bytes_received: int = 0
    samples_asked: int = 0
    samples_pulled_back: int = 0
    questions: int = 0
    answers: int = 0
    seconds: float = 0.0
    refusals: int = 0
    recipes: int = 0
    misdrawn: int = 0
    strikes: int = 0
    ended: str = ""

    @property
    def counts(self) -> dict[str, int]:
        """The numbers among them."""
        return {name: value for name, value in vars(self).items() if isinstance(value, int)}


class Seat:
    """Puts questions to one institution, at most MAX_IN_FLIGHT at a time, and hears its answers.

    Args:
        card: the institution's.
        stream: of gRPC.
        session: in which the institution has said Hello.
        wording: how it is asked.
        counters: to be kept.
        patience: seconds that it may owe an answer for which nobody waits any more.
        in_time: is called at every answer that somebody still waits for.
        strike: is told at once how the institution broke the law.
        vacate: is called once, when the session has ended.
    """

    def __init__(
        self,
        card: Card,
        stream: grpc.aio.ServicerContext,
        session: Session,
        wording: Wording,
        counters: Counters,
        patience: float,
        in_time: Callable[[], None],
        strike: Callable[[Struck], None],
        vacate: Callable[[], None],
    ) -> None:
        self.card = card
        self.ending: str | None = None
        """Why the session ends; None while it lasts."""
        self.returns = False
        """Whether it ends in a way after which the institution may come back."""
        self._stream = stream
        self._session = session
        self._wording = wording
        self._counters = counters
        self._patience = patience
        self._in_time = in_time
        self._strike = strike
        self._vacate = vacate
        self._waiting: deque[Parcel] = deque()
        self._sent: dict[int, Parcel] = {}
        self._owed: dict[int, asyncio.TimerHandle] = {}
        self._wake = asyncio.Event()
        self._ended = asyncio.Event()
        self._listens = True

    @property
    def owes(self) -> int:
        """Number of the oldest question whose answer is late; 0 where none is."""
        return min(self._owed, default=0)

    def put(self, parcel: Parcel) -> None:
        """Takes a question, to be sent when its turn comes."""
        if self.ending is not None:
            parcel.lose(self.ending)
            return
        # Whoever stopped waiting for an institution that stalls must not fill the memory.
        while self._waiting and self._waiting[0].outcome.cancelled():
            self._waiting.popleft()
        self._waiting.append(parcel)
        self._wake.set()

    def release(self, parcel: Parcel) -> None:
        """Nobody waits for ``parcel`` any more: it is taken back; if it was sent, it is owed."""
        number = parcel.question.id
        if parcel in self._waiting:
            self._waiting.remove(parcel)
        elif number in self._sent and number not in self._owed:
            parcel.returns = False
            why = f"it owed the answer to question {number} for more than {self._patience:g} s"
            loop = asyncio.get_running_loop()
            self._owed[number] = loop.call_later(self._patience, self._expire, why)

    def dismiss(self, why: str) -> None:
        """Ends the session for good: no more questions, a Close if it still listens."""
        self._end(why)

    def unanswered(self) -> tuple[Parcel, ...]:
        """Questions that the session left behind, by rising number; to be called at its end."""
        left = (*self._sent.values(), *self._waiting)
        self._sent.clear()
        self._waiting.clear()
        return left

    async def serve(self) -> None:
        """Lives as long as the session."""
        reader = asyncio.create_task(self._read())
        writer = asyncio.create_task(self._write())
        # An institution that neither speaks nor reads wakes neither of the two.
        ended = asyncio.create_task(self._ended.wait())
        try:
            await asyncio.wait({reader, writer, ended}, return_when=asyncio.FIRST_COMPLETED)
            self._end(LOST, listens=False, returns=True)
            await asyncio.wait({writer}, timeout=PARTING_SECONDS)
        finally:
            for task in (reader, writer, ended):
                task.cancel()
            self._end(LOST, returns=True)
            self._counters.ended = self.ending or LOST
            for timer in self._owed.values():
                timer.cancel()
            self._vacate()  # before anything awaits: who waits for an answer must not be forgotten
            ends = await asyncio.gather(reader, writer, ended, return_exceptions=True)
        for end in ends:
            if isinstance(end, Exception) and not isinstance(end, grpc.aio.BaseError):
                raise end

    async def _write(self) -> None:
        welcome = Welcome(VERSION)
        self._session.send(welcome)
        await self._stream.write(encode(welcome))
        while self.ending is None:
            if not self._waiting or self._session.in_flight == MAX_IN_FLIGHT:
                self._wake.clear()
                await self._wake.wait()
                continue
            parcel = self._waiting.popleft()
            if parcel.start():
                await self._send(parcel)
        if self._listens:
            farewell = Close(self.ending)
            self._session.send(farewell)
            await self._stream.write(encode(farewell))

    async def _send(self, parcel: Parcel) -> None:
        question, form = parcel.question, self._wording.of(parcel.letter, self.card)
        self._session.send(form.message)
        self._sent[question.id] = parcel
        if parcel.tries == 0:
            self._counters.questions += 1
            if isinstance(question.request, Ask):
                self._counters.samples_asked += len(question.request.images)
            else:
                self._counters.samples_pulled_back += len(question.request.images)
        parcel.tries += 1
        parcel.sent = asyncio.get_running_loop().time()
        self._counters.recipes += isinstance(form.message, Named)
        self._counters.bytes_sent += len(form.data)
        await self._stream.write(form.data)

    async def _read(self) -> None:
        while self.ending is None:
            data = await self._stream.read()
            if data is grpc.aio.EOF:
                self._end(LOST, listens=False, returns=True)
                return
            self._counters.bytes_received += len(data)
            try:
                self._hear(data)
            except RemoteProtocolError as error:
                self._counters.strikes += 1
                why = Struck(error)
                self._strike(why)  # first: whoever hears of it may count on it
                self._stream.set_code(grpc.StatusCode.INVALID_ARGUMENT)
                self._end(why)

    def _hear(self, data: bytes) -> None:
        message = decode_from_institution(data)
        self._session.receive(message)
        match message:
            case Answer(number, reply):
                self._counters.answers += 1
                self._settle(number, reply)
            case Declined(number, Refusal(reason=Reason.UNDRAWN)):
                self._show(number)
            case Declined(number, refusal):
                self._counters.refusals += 1
                self._settle(number, refusal)
            case Close(reason):
                self._end(f"it left: {reason}", listens=False)
        self._wake.set()

    def _show(self, number: int) -> None:
        """Puts a question again with its images, as its recipe did not lead to them."""
        parcel = self._sent.pop(number)
        self._counters.misdrawn += 1
        self._wording.misdrawn(parcel.letter)
        if timer := self._owed.pop(number, None):  # nobody waits for it any more
            timer.cancel()
        else:
            self._waiting.appendleft(parcel)

    def _settle(self, number: int, outcome: Reply | Refusal) -> None:
        parcel = self._sent.pop(number)
        self._counters.seconds += asyncio.get_running_loop().time() - parcel.sent
        if timer := self._owed.pop(number, None):
            timer.cancel()
        else:
            self._in_time()
        parcel.outcome.set_result(outcome)

    def _expire(self, why: str) -> None:
        """Ends the session of an institution that is too late; it may come back."""
        # Without a Close, which would tell an agent that the run is over.
        self._stream.set_code(grpc.StatusCode.UNAVAILABLE)
        self._stream.set_details(why)
        self._end(why, listens=False, returns=True)

    def _end(self, why: str, *, listens: bool = True, returns: bool = False) -> None:
        if self.ending is None:
            self.ending, self.returns = why, returns
            self._listens = listens
        self._wake.set()
        self._ended.set()
