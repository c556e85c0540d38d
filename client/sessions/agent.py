"""Agent: open a session with a coordinator, answer its queries one by one, and reconnect.

It has neither teacher nor policy: a function that it is given computes the answers.
"""

import logging
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from fedkd.client.sessions.certificate_expiry import calling_at, expiry_text
from fedkd.client.sessions.recipe_renderer import RecipeGate, RecipeRenderer
from fedkd.errors import RemoteProtocolError
from fedkd.process.logs import log_event
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
from fedkd.wire.grpc_channels import dial, grpc, open_stream

CLOSE_SECONDS = 0.5
"""For the coordinator to receive our Close."""
MAX_UNSENT = 2
"""Answers that wait for the coordinator to read them; then no further query is answered."""
LEFT = "the institution left"

PERMANENT_ERRORS = frozenset(
    {
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
    }
)
"""Errors that a retry does not change."""
FAILED = Refusal(Reason.FAILED, "the teacher could not answer")

UNTRUSTED_SERVER = ("CERTIFICATE_VERIFY_FAILED", "Hostname Verification Check failed")
"""Parts of gRPC's texts where the server cannot prove that it is the coordinator."""
CONNECTION_ERRORS = {
    "Socket closed": "{} closed the connection at once: it wants TLS, or trusts another authority "
    "than the one that signed our certificate",
    "WRONG_VERSION_NUMBER": "{} speaks plain text, and we speak TLS",
    "Connection refused": "nobody listens on {}",
}
"""Parts of gRPC's texts where no session was opened, and our texts for them. A coordinator that
restarts may be behind each of them, so the agent tries again."""

log = logging.getLogger(__name__)


class StopReason(StrEnum):
    """Why an agent stopped."""

    FINISHED = "over"
    """The coordinator closed the session: the run is over."""
    STOPPED = "left"
    """The agent was closed here."""
    REFUSED = "refused"
    """An error that a retry would not change."""
    UNREACHABLE = "gone"
    """The coordinator could not be reached for too long."""


@dataclass(frozen=True)
class ReconnectPolicy:
    """Exponential backoff of an agent whose session was lost.

    Attributes:
        initial_pause: seconds before the first retry, doubled at each; drawn from the upper half,
            so that institutions do not reconnect all at once.
        max_pause: seconds between retries, at most. After a session that lasted longer the pause
            is `initial_pause` again.
        give_up_after: seconds without a session after which the coordinator counts as gone.
        welcome: seconds that it may take to answer our Hello.
    """

    initial_pause: float = 0.5
    max_pause: float = 30.0
    give_up_after: float = 600.0
    welcome: float = 60.0


@dataclass(frozen=True)
class _SessionResult:
    """How one session ended."""

    reason: str
    stop_reason: StopReason | None = None
    """None where the agent should reconnect."""
    opened: bool = False


class _Stream:
    """The bidirectional stream of one session: received by iteration, sent in order."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._unsent, self._sending = 0, threading.Condition()
        self._done = threading.Event()
        self.call = open_stream(channel, self._outgoing())
        self.call.add_done_callback(lambda _: self._end())

    def _outgoing(self) -> Iterator[bytes]:
        """What gRPC sends: it asks for the next message when it is rid of the one before."""
        while (data := self._outbox.get()) is not None:
            yield data
            with self._sending:
                self._unsent -= 1
                self._sending.notify_all()

    def _end(self) -> None:
        self._done.set()
        with self._sending:
            self._sending.notify_all()

    def send(self, data: bytes) -> None:
        """Send one message, after those before it."""
        with self._sending:
            self._unsent += 1
        self._outbox.put(data)

    def wait_until_sent(self) -> None:
        """Wait while `MAX_UNSENT` messages are on their way and the stream is open.

        A coordinator that asks and never reads would otherwise fill our memory with answers.
        """
        with self._sending:
            self._sending.wait_for(lambda: self._unsent < MAX_UNSENT or self._done.is_set())

    def half_close(self) -> None:
        """End our side; the hub then ends its own."""
        self._outbox.put(None)

    def close(self, reason: str) -> None:
        """Send Close, and wait shortly for the hub to receive it."""
        self.send(encode(Close(reason)))
        self.half_close()
        if not self._done.wait(CLOSE_SECONDS):
            self.call.cancel()


class Agent:
    """Answers a coordinator on behalf of one institution.

    Args:
        address: host:port of the hub.
        token: of the run.
        card: the institution's.
        answer: computes the answers. Its exceptions stay here: the coordinator only learns that
            the teacher could not answer.
        credentials: TLS; without them only a hub on this machine can be dialled.
        reconnect: backoff after a session was lost.
        recipes: asked before a recipe is rendered.
        expiry: of the institution's own certificate, UTC: `serve` ends then. None for never.

    Attributes:
        stop_reason: how `serve` ended; None before that.
    """

    def __init__(
        self,
        address: str,
        token: str,
        card: Card,
        answer: Callable[[Ask | PullBack], Reply | Refusal],
        credentials: grpc.ChannelCredentials | None = None,
        reconnect: ReconnectPolicy | None = None,
        recipes: RecipeGate | None = None,
        expiry: datetime | None = None,
    ) -> None:
        self._address = address
        self._hello = Hello(VERSION, token, card)
        self._answer = answer
        self._credentials = credentials
        self._reconnect = reconnect or ReconnectPolicy()
        self._recipes = recipes or RecipeGate()
        self._expiry, self._expired = expiry, False
        self.stop_reason: StopReason | None = None
        self._closing = threading.Event()
        self._answering = threading.Lock()  # held while one query is answered
        self._stream: _Stream | None = None

    def serve(self) -> str:
        """Answer until either side closes, or the coordinator is unreachable for too long.

        Returns:
            Why it stopped.

        Raises:
            SettingsError: plain text to another machine.
        """
        with calling_at(self._expiry, self._expire):
            last = self._run_sessions()
        if self._expired and self._expiry is not None:
            last = _SessionResult(expiry_text(self._expiry), StopReason.REFUSED)
        self.stop_reason = last.stop_reason
        return last.reason

    def _run_sessions(self) -> _SessionResult:
        """Open sessions, with backoff, until one of them is the last; its result."""
        jitter = random.SystemRandom()  # no seed of a run may make institutions reconnect together
        pause, seen = self._reconnect.initial_pause, time.monotonic()
        while not self._closing.is_set():
            began = time.monotonic()
            result = self._run_session()
            now = time.monotonic()
            if result.stop_reason is not None:
                return result
            if result.opened:
                seen = now
                if now - began > self._reconnect.max_pause:
                    pause = self._reconnect.initial_pause
            if now - seen > self._reconnect.give_up_after and not self._closing.is_set():
                return _SessionResult(
                    f"the coordinator is gone: {result.reason}", StopReason.UNREACHABLE
                )
            facts = {"server": self._address, "reason": result.reason, "pause": round(pause, 3)}
            log_event(log, "session_lost", logging.WARNING, **facts)
            self._closing.wait(jitter.uniform(pause / 2, pause))
            pause = min(2 * pause, self._reconnect.max_pause)
        return _SessionResult(LEFT, StopReason.STOPPED)

    def close(self) -> None:
        """Make `serve` return, after the answer in progress; for any thread."""
        self._leave(LEFT)

    def _leave(self, reason: str) -> None:
        self._closing.set()
        with self._answering:  # an answer in progress is charged, so it is also sent
            if stream := self._stream:
                stream.close(reason)

    def _expire(self) -> None:
        """Our certificate has expired: a retry would not change that."""
        self._expired = True
        self._leave("the institution's certificate has expired")

    def _run_session(self) -> _SessionResult:
        """One session, from its Hello to its end."""
        session = Session(Role.INSTITUTION)
        with dial(self._address, self._credentials) as channel:
            stream = self._stream = _Stream(channel)
            unanswered = threading.Timer(self._reconnect.welcome, stream.call.cancel)
            unanswered.daemon = True
            unanswered.start()
            try:
                return self._answer_queries(session, stream, unanswered)
            except RemoteProtocolError as error:
                stream.close(str(error))
                return _SessionResult(
                    f"the coordinator violated the protocol: {error}", StopReason.REFUSED
                )
            except grpc.RpcError:
                return self._failure(stream.call, session.state is State.OPEN)
            finally:
                self._stream = None
                unanswered.cancel()
                stream.half_close()

    def _answer_queries(
        self, session: Session, stream: _Stream, unanswered: threading.Timer
    ) -> _SessionResult:
        renderer = RecipeRenderer(self._hello.card, self._recipes, self._closing)
        session.send(self._hello)
        stream.send(encode(self._hello))
        if self._closing.is_set():  # by a `close` that came before there was a stream
            return _SessionResult(LEFT, StopReason.STOPPED)
        for data in stream.call:
            message = decode_from_coordinator(data)
            session.receive(message)
            match message:
                case Welcome(version) if version != VERSION:
                    raise RemoteProtocolError(f"version {version}, expected {VERSION}")
                case Welcome():
                    unanswered.cancel()
                    log_event(log, "session_open", server=self._address)
                case Query() | RecipeQuery():
                    with self._answering:
                        if self._closing.is_set():
                            return _SessionResult(LEFT, StopReason.STOPPED)
                        stream.send(self._response(session, renderer, message))
                    stream.wait_until_sent()
                case Close(reason):
                    return _SessionResult(reason, StopReason.FINISHED)
        return _SessionResult(
            "the coordinator closed the stream without a Close", opened=session.state is State.OPEN
        )

    def _failure(self, call: grpc.Call, opened: bool) -> _SessionResult:
        """The result of a session that ended with a gRPC error."""
        reason = call.details() or call.code().name
        if any(sign in reason for sign in UNTRUSTED_SERVER):
            return _SessionResult(
                f"the server at {self._address} has no certificate of this coordinator's "
                "authority for that address",
                StopReason.REFUSED,
            )
        if not opened:
            texts = (text for sign, text in CONNECTION_ERRORS.items() if sign in reason)
            reason = next((text.format(self._address) for text in texts), reason)
        return _SessionResult(
            reason, StopReason.REFUSED if call.code() in PERMANENT_ERRORS else None, opened
        )

    def _response(
        self, session: Session, renderer: RecipeRenderer, query: Query | RecipeQuery
    ) -> bytes:
        """The encoded answer to a query."""
        try:
            if isinstance(query, RecipeQuery):
                answer = renderer.answer(query, self._answer)
            else:
                answer = self._answer(query.request)
            return _encoded(session, query.id, answer)
        except Exception:
            # The error may quote private data: nothing of it leaves, not even to a log.
            return _encoded(session, query.id, FAILED)


def _encoded(session: Session, query_id: int, answer: Reply | Refusal) -> bytes:
    if isinstance(answer, Refusal):
        message: Declined | Answer = Declined(query_id, answer)
    else:
        message = Answer(query_id, answer)
    # Encoded before it enters the session state: what cannot be encoded was not sent.
    data = encode(message, session.packs)
    session.send(message)
    return data
