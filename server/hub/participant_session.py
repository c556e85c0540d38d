"""An open session with one institution: sends questions, receives answers, tracks late ones.

Everything here runs on the hub's thread.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime

from fedkd.errors import RemoteProtocolError
from fedkd.protocol import Ask, Card, Reason, Refusal, Reply
from fedkd.server.hub.answer_times import AnswerTimes
from fedkd.server.hub.bans import BanReason
from fedkd.server.hub.certificate_expiry import expiry_of, expiry_text, wait_for_expiry
from fedkd.server.hub.pending_query import PendingQuery
from fedkd.server.hub.query_encoding import EncodingSelector
from fedkd.wire import (
    MAX_IN_FLIGHT,
    VERSION,
    Answer,
    Close,
    Declined,
    RecipeQuery,
    Session,
    Welcome,
    decode_from_institution,
    encode,
)
from fedkd.wire.grpc_channels import grpc

PARTING_SECONDS = 0.5
"""For an institution to receive the reason why its session ends."""
CONNECTION_LOST = "the connection was lost"


@dataclass
class ParticipantCounters:
    """What passed between the hub and one institution, over all its sessions of a run.

    Attributes:
        bytes_sent: of questions, as encoded; gRPC's own framing comes on top.
        bytes_received: of all its messages, likewise.
        samples_asked: samples in Asks that were sent to it, whether or not it answered. A question
            that is sent again counts once.
        samples_pulled_back: samples in PullBacks that were sent to it, likewise.
        questions: that were sent to it, likewise.
        answers: that came, late ones included.
        seconds: from each of these questions to its answer or refusal, added up.
        times: the same seconds, by bucket.
        refusals: questions that it declined.
        recipes: questions that were sent with a recipe in place of the samples.
        recipe_mismatches: of these, those that it could not render, so that the samples were sent.
        protocol_violations: sessions that ended because it violated the protocol.
        end_reason: why its last session ended; empty while it is connected.
    """

    bytes_sent: int = 0
    bytes_received: int = 0
    samples_asked: int = 0
    samples_pulled_back: int = 0
    questions: int = 0
    answers: int = 0
    seconds: float = 0.0
    times: AnswerTimes = field(default_factory=AnswerTimes)
    refusals: int = 0
    recipes: int = 0
    recipe_mismatches: int = 0
    protocol_violations: int = 0
    end_reason: str = ""

    @property
    def counts(self) -> dict[str, int]:
        """The integer fields, and the buckets of answer times that are not empty."""
        own = {name: value for name, value in vars(self).items() if isinstance(value, int)}
        return own | self.times.counters

    def copy(self) -> "ParticipantCounters":
        """The counters as they are now."""
        return replace(self, times=self.times.copy())


class ParticipantSession:
    """Sends questions to one institution, at most MAX_IN_FLIGHT at a time; receives its answers.

    Args:
        card: the institution's.
        stream: of gRPC.
        protocol: the session's state machine, which has received Hello.
        selector: chooses the encoding of each question.
        counters: updated here.
        late_answer_seconds: how long an answer that nobody waits for may be overdue.
        on_timely_answer: called at every answer that somebody still waits for.
        on_violation: called at once with the protocol violation of the institution.
        on_end: called once, when the session has ended.
    """

    def __init__(
        self,
        card: Card,
        stream: grpc.aio.ServicerContext,
        protocol: Session,
        selector: EncodingSelector,
        counters: ParticipantCounters,
        late_answer_seconds: float,
        on_timely_answer: Callable[[], None],
        on_violation: Callable[[BanReason], None],
        on_end: Callable[[], None],
    ) -> None:
        self.card = card
        self.end_reason: str | None = None
        """Why the session ends; None while it lasts."""
        self.may_return = False
        """Whether the institution may open another session after this one."""
        self._stream = stream
        self._protocol = protocol
        self._selector = selector
        self._counters = counters
        self._late_answer_seconds = late_answer_seconds
        self._on_timely_answer = on_timely_answer
        self._on_violation = on_violation
        self._on_end = on_end
        self._queue: deque[PendingQuery] = deque()
        self._in_flight: dict[int, PendingQuery] = {}
        self._overdue: dict[int, asyncio.TimerHandle] = {}
        self._changed = asyncio.Event()
        self._ended = asyncio.Event()
        self._peer_listens = True

    @property
    def overdue_question(self) -> int:
        """Number of the oldest question whose answer is overdue; 0 if there is none."""
        return min(self._overdue, default=0)

    def submit(self, query: PendingQuery) -> None:
        """Queues a question."""
        if self.end_reason is not None:
            query.fail(self.end_reason)
            return
        # Cancelled questions to an institution that stalls must not fill the memory.
        while self._queue and self._queue[0].outcome.cancelled():
            self._queue.popleft()
        self._queue.append(query)
        self._changed.set()

    def abandon(self, query: PendingQuery) -> None:
        """Nobody waits for ``query`` any more: removes it from the queue, or marks it overdue."""
        number = query.message.id
        if query in self._queue:
            self._queue.remove(query)
        elif number in self._in_flight and number not in self._overdue:
            query.retry = False
            limit, loop = self._late_answer_seconds, asyncio.get_running_loop()
            why = f"it owed the answer to question {number} for more than {limit:g} s"
            self._overdue[number] = loop.call_later(limit, self._end_overdue, why)

    def close(self, why: str) -> None:
        """Ends the session: no more questions, and a Close if the institution still reads."""
        self._end(why)

    def refuse(self, why: str) -> None:
        """Ends the session with a status that tells an agent not to try again as it is."""
        self._end_with_status(grpc.StatusCode.FAILED_PRECONDITION, why, may_return=False)

    def take_unanswered(self) -> tuple[PendingQuery, ...]:
        """Removes and returns the questions without an answer, by rising number."""
        left = (*self._in_flight.values(), *self._queue)
        self._in_flight.clear()
        self._queue.clear()
        return left

    async def serve(self) -> None:
        """Reads and writes until the session ends."""
        reader = asyncio.create_task(self._read())
        writer = asyncio.create_task(self._write())
        # An institution that neither speaks nor reads wakes neither of the two.
        ended = asyncio.create_task(self._ended.wait())
        tasks: list[asyncio.Task[object]] = [reader, writer, ended]
        if expiry := expiry_of(self._stream):
            tasks.append(asyncio.create_task(self._end_at_expiry(expiry)))
        try:
            await asyncio.wait({reader, writer, ended}, return_when=asyncio.FIRST_COMPLETED)
            self._end(CONNECTION_LOST, peer_listens=False, may_return=True)
            await asyncio.wait({writer}, timeout=PARTING_SECONDS)
        finally:
            for task in tasks:
                task.cancel()
            self._end(CONNECTION_LOST, may_return=True)
            self._counters.end_reason = self.end_reason or CONNECTION_LOST
            for timer in self._overdue.values():
                timer.cancel()
            self._on_end()  # before anything awaits, so that no pending question is forgotten
            ends = await asyncio.gather(*tasks, return_exceptions=True)
        for end in ends:
            if isinstance(end, Exception) and not isinstance(end, grpc.aio.BaseError):
                raise end

    async def _write(self) -> None:
        welcome = Welcome(VERSION)
        self._protocol.send(welcome)
        await self._stream.write(encode(welcome))
        while self.end_reason is None:
            if not self._queue or self._protocol.in_flight == MAX_IN_FLIGHT:
                self._changed.clear()
                await self._changed.wait()
                continue
            query = self._queue.popleft()
            if query.start():
                await self._send(query)
        if self._peer_listens:
            farewell = Close(self.end_reason)
            self._protocol.send(farewell)
            await self._stream.write(encode(farewell))

    async def _send(self, query: PendingQuery) -> None:
        message, encoding = query.message, self._selector.select(query.encodings, self.card)
        self._protocol.send(encoding.message)
        self._in_flight[message.id] = query
        if query.attempts == 0:
            self._counters.questions += 1
            if isinstance(message.request, Ask):
                self._counters.samples_asked += len(message.request.images)
            else:
                self._counters.samples_pulled_back += len(message.request.images)
        query.attempts += 1
        query.sent_at = asyncio.get_running_loop().time()
        self._counters.recipes += isinstance(encoding.message, RecipeQuery)
        self._counters.bytes_sent += len(encoding.data)
        await self._stream.write(encoding.data)

    async def _read(self) -> None:
        while self.end_reason is None:
            data = await self._stream.read()
            if data is grpc.aio.EOF:
                self._end(CONNECTION_LOST, peer_listens=False, may_return=True)
                return
            self._counters.bytes_received += len(data)
            try:
                self._receive(data)
            except RemoteProtocolError as error:
                self._counters.protocol_violations += 1
                why = BanReason(error)
                self._on_violation(why)  # first: the ban is stored before anybody is informed
                self._stream.set_code(grpc.StatusCode.INVALID_ARGUMENT)
                self._end(why)

    def _receive(self, data: bytes) -> None:
        message = decode_from_institution(data)
        self._protocol.receive(message)
        match message:
            case Answer(number, reply):
                self._counters.answers += 1
                self._resolve(number, reply)
            case Declined(number, Refusal(reason=Reason.UNDRAWN)):
                self._resend_explicit(number)
            case Declined(number, refusal):
                self._counters.refusals += 1
                self._resolve(number, refusal)
            case Close(reason):
                self._end(f"it left: {reason}", peer_listens=False)
        self._changed.set()

    def _resend_explicit(self, number: int) -> None:
        """Sends a question again with its samples, since its recipe did not reproduce them."""
        query = self._in_flight.pop(number)
        self._counters.recipe_mismatches += 1
        self._selector.recipe_failed(query.encodings)
        if timer := self._overdue.pop(number, None):  # nobody waits for it any more
            timer.cancel()
        else:
            self._queue.appendleft(query)

    def _resolve(self, number: int, outcome: Reply | Refusal) -> None:
        query = self._in_flight.pop(number)
        seconds = asyncio.get_running_loop().time() - query.sent_at
        self._counters.seconds += seconds
        self._counters.times.add(seconds)
        if timer := self._overdue.pop(number, None):
            timer.cancel()
        else:
            self._on_timely_answer()
        query.outcome.set_result(outcome)

    def _end_overdue(self, why: str) -> None:
        """Ends the session of an institution whose answer is too late; it may reconnect."""
        self._end_with_status(grpc.StatusCode.UNAVAILABLE, why)

    async def _end_at_expiry(self, expiry: datetime) -> None:
        """Ends the session once its client certificate has expired; its name may come back."""
        await wait_for_expiry(expiry)
        why = expiry_text(self.card.name, expiry)
        self._end_with_status(grpc.StatusCode.UNAUTHENTICATED, why)

    def _end_with_status(self, code: grpc.StatusCode, why: str, *, may_return: bool = True) -> None:
        """Ends the session without a Close, which would tell an agent that the run is over."""
        self._stream.set_code(code)
        self._stream.set_details(why)
        self._end(why, peer_listens=False, may_return=may_return)

    def _end(self, why: str, *, peer_listens: bool = True, may_return: bool = False) -> None:
        if self.end_reason is None:
            self.end_reason, self.may_return = why, may_return
            self._peer_listens = peer_listens
        self._changed.set()
        self._ended.set()
