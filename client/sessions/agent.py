"""The agent: dials out to a coordinator and answers its questions, one after the other.

It knows no teacher and no policy: what to answer is decided by the function that it is given.
"""

import logging
import queue
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from fedkd.client.sessions.recipe_renderer import RecipeRenderer
from fedkd.core.logs import say
from fedkd.errors import RemoteProtocolError
from fedkd.protocol import Ask, Card, PullBack, Reason, Refusal, Reply
from fedkd.wire import (
    VERSION,
    Answer,
    Close,
    Declined,
    Hello,
    Query,
    RecipeQuery,
    Role,
    Session,
    State,
    Welcome,
    decode_from_coordinator,
    encode,
)
from fedkd.wire.channel import dial, grpc, open_stream

PARTING_SECONDS = 0.5
"""For the coordinator to hear that we leave."""
LEFT = "the institution left"

FOR_GOOD = frozenset(
    {
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
    }
)
"""Refusals that trying again does not change."""
FAILED = Refusal(Reason.FAILED, "the teacher could not answer")

STRANGER = ("CERTIFICATE_VERIFY_FAILED", "Hostname Verification Check failed")
"""In what gRPC says where whoever listens cannot prove to be the coordinator."""
UNHEARD = {
    "Socket closed": "{} hung up before a word: it wants TLS, or trusts another authority than the "
    "one that signed our certificate",
    "WRONG_VERSION_NUMBER": "{} speaks plain text, and we speak TLS",
    "Connection refused": "nobody listens on {}",
}
"""What gRPC says where no session was opened, in our words. A coordinator that starts again may be
behind each of them, so that it is tried again."""

log = logging.getLogger(__name__)


class StopReason(StrEnum):
    """How an agent's work ended."""

    OVER = "over"
    """The coordinator said so."""
    LEFT = "left"
    """We were told to stop."""
    REFUSED = "refused"
    """For good: trying again would not change it."""
    GONE = "gone"
    """The coordinator was out of reach for longer than our patience."""


@dataclass(frozen=True)
class ReconnectPolicy:
    """How an agent comes back after its session was lost.

    Attributes:
        first: seconds before the first try, doubled at each; drawn from the upper half, so that
            institutions do not come back all at once.
        longest: seconds between tries, at most. A session that lived longer starts from `first`.
        total: seconds without a session after which the coordinator counts as gone.
    """

    first: float = 0.5
    longest: float = 30.0
    total: float = 600.0


@dataclass(frozen=True)
class _Visit:
    """How one session went."""

    reason: str
    ending: StopReason | None = None
    """None where it is worth coming back."""
    opened: bool = False


class _Line:
    """One stream to the hub: its messages come by iteration, ours go out in order."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._ended = threading.Event()
        self.stream = open_stream(channel, iter(self._outbox.get, None))
        self.stream.add_done_callback(lambda _: self._ended.set())

    def say(self, data: bytes) -> None:
        """Sends one message, in its turn."""
        self._outbox.put(data)

    def hang_up(self) -> None:
        """Ends our side; the hub then ends its own."""
        self._outbox.put(None)

    def part(self, reason: str) -> None:
        """Says Close, and waits shortly for the hub to hear it."""
        self.say(encode(Close(reason)))
        self.hang_up()
        if not self._ended.wait(PARTING_SECONDS):
            self.stream.cancel()


class Agent:
    """Answers a coordinator on behalf of one institution.

    Args:
        address: host:port of the hub.
        token: of the run.
        card: what the institution says of itself.
        answer: what to answer. What it raises stays here: the coordinator is told no more than
            that the teacher could not answer.
        credentials: TLS; without them only a hub on this machine can be dialled.
        patience: how to come back after a session was lost.

    Attributes:
        ending: how `serve` ended; None before that.
    """

    def __init__(
        self,
        address: str,
        token: str,
        card: Card,
        answer: Callable[[Ask | PullBack], Reply | Refusal],
        credentials: grpc.ChannelCredentials | None = None,
        patience: ReconnectPolicy | None = None,
    ) -> None:
        self._address = address
        self._hello = Hello(VERSION, token, card)
        self._answer = answer
        self._credentials = credentials
        self._patience = patience or ReconnectPolicy()
        self.ending: StopReason | None = None
        self._told = threading.Event()
        self._turn = threading.Lock()  # held for as long as one question is answered
        self._line: _Line | None = None

    def serve(self) -> str:
        """Answers until either side says that it is over, or the coordinator is gone.

        Returns:
            Why it stopped.

        Raises:
            SettingsError: plain text to another machine.
        """
        ended = self._come_and_go()
        self.ending = ended.ending
        return ended.reason

    def _come_and_go(self) -> _Visit:
        """Visits until one of them is the last."""
        jitter = random.SystemRandom()  # no seed of a run may make institutions come back together
        pause, seen = self._patience.first, time.monotonic()
        while not self._told.is_set():
            began = time.monotonic()
            visit = self._visit()
            now = time.monotonic()
            if visit.ending is not None:
                return visit
            if visit.opened:
                seen = now
                if now - began > self._patience.longest:
                    pause = self._patience.first
            if now - seen > self._patience.total:
                return _Visit(f"the coordinator is gone: {visit.reason}", StopReason.GONE)
            say(
                log,
                "session_lost",
                logging.WARNING,
                server=self._address,
                reason=visit.reason,
                pause=round(pause, 3),
            )
            self._told.wait(jitter.uniform(pause / 2, pause))
            pause = min(2 * pause, self._patience.longest)
        return _Visit(LEFT, StopReason.LEFT)

    def close(self) -> None:
        """Makes `serve` return, after the answer that it may be at; for any thread."""
        self._told.set()
        with self._turn:  # an answer that is begun is counted, so it is also given
            if line := self._line:
                line.part(LEFT)

    def _visit(self) -> _Visit:
        """One session, from its Hello to its end."""
        session = Session(Role.INSTITUTION)
        with dial(self._address, self._credentials) as channel:
            line = self._line = _Line(channel)
            try:
                return self._converse(session, line)
            except RemoteProtocolError as error:
                line.part(str(error))
                return _Visit(f"the coordinator broke the law: {error}", StopReason.REFUSED)
            except grpc.RpcError:
                return self._failed(line.stream, session.state is State.OPEN)
            finally:
                self._line = None
                line.hang_up()

    def _converse(self, session: Session, line: _Line) -> _Visit:
        easel = RecipeRenderer(self._hello.card.shape)
        session.send(self._hello)
        line.say(encode(self._hello))
        if self._told.is_set():  # by a `close` that came too early to find the line
            return _Visit(LEFT, StopReason.LEFT)
        for data in line.stream:
            message = decode_from_coordinator(data)
            session.receive(message)
            match message:
                case Welcome(version) if version != VERSION:
                    raise RemoteProtocolError(f"version {version}, expected {VERSION}")
                case Welcome():
                    say(log, "session_open", server=self._address)
                case Query() | RecipeQuery():
                    with self._turn:
                        if self._told.is_set():
                            return _Visit(LEFT, StopReason.LEFT)
                        line.say(self._outcome(session, easel, message))
                case Close(reason):
                    return _Visit(reason, StopReason.OVER)
        return _Visit("the coordinator left without a word", opened=session.state is State.OPEN)

    def _failed(self, stream: grpc.Call, opened: bool) -> _Visit:
        """A visit that gRPC cut short."""
        reason = stream.details() or stream.code().name
        if any(sign in reason for sign in STRANGER):
            return _Visit(
                f"whoever listens on {self._address} has no certificate of this coordinator's "
                "authority for that address",
                StopReason.REFUSED,
            )
        if not opened:
            words = (text for sign, text in UNHEARD.items() if sign in reason)
            reason = next((text.format(self._address) for text in words), reason)
        return _Visit(reason, StopReason.REFUSED if stream.code() in FOR_GOOD else None, opened)

    def _outcome(
        self, session: Session, easel: RecipeRenderer, question: Query | RecipeQuery
    ) -> bytes:
        """What comes of ``question``, in bytes."""
        request: Ask | PullBack | Refusal
        request = easel.drawn(question) if isinstance(question, RecipeQuery) else question.request
        if isinstance(request, Refusal):
            return _in_bytes(session, question.id, request)
        try:
            return _in_bytes(session, question.id, self._answer(request))
        except Exception:
            # What went wrong may speak of private data: nothing of it leaves, not even to a log.
            return _in_bytes(session, question.id, FAILED)


def _in_bytes(session: Session, number: int, said: Reply | Refusal) -> bytes:
    message = Declined(number, said) if isinstance(said, Refusal) else Answer(number, said)
    # Before it is taken down: what cannot be said was not said.
    data = encode(message, session.packs)
    session.send(message)
    return data
