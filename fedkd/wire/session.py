"""The law of a session, as a table, and a `Session` that holds both ends to it. Does no I/O.

    CONNECTED --Hello--> IDENTIFIED --Welcome--> OPEN, in which questions and answers pass
    any of them --Close, from either--> CLOSED

Everything that decides what may be said stands in this file, and none of it knows which end we
are: a rule that binds them binds us. What we break is a LocalProtocolError, before anything is
said; what they break is a RemoteProtocolError.

Questions are told apart by number. A number rises with every question; a question may be put
again under its number while it is unanswered; every number is answered once. A question by recipe
is put to whoever takes recipes, and stays unanswered when its images could not be drawn: it is put
again, with the images.
"""

from collections.abc import Mapping
from enum import Enum, auto
from types import MappingProxyType

import torch

from fedkd.errors import LocalProtocolError, RemoteProtocolError
from fedkd.protocol import RECIPE_VERSION, Ask, Card, PullBack, Reason, Refusal, Reply, Signal
from fedkd.wire.messages import (
    Answer,
    Close,
    Declined,
    Hello,
    Invalid,
    Message,
    Query,
    RecipeQuery,
    Welcome,
)
from fedkd.wire.packed_rows import PACKING_VERSION
from fedkd.wire.recipes import exceeds_limits

MAX_IN_FLIGHT = 2
"""Unanswered questions at a time: the second travels while the first is answered."""


class Role(Enum):
    """Who speaks."""

    INSTITUTION = "the institution"
    COORDINATOR = "the coordinator"

    @property
    def other(self) -> "Role":
        """Who listens."""
        return Role.COORDINATOR if self is Role.INSTITUTION else Role.INSTITUTION


class State(Enum):
    """How far a session is."""

    CONNECTED = auto()
    """Nothing was said."""
    IDENTIFIED = auto()
    """The institution said who it is."""
    OPEN = auto()
    """Questions may be put."""
    CLOSED = auto()
    """Nothing more is said, but for a Close that crossed another."""


TRANSITIONS: Mapping[tuple[State, Role, type[Message]], State] = MappingProxyType(
    {
        (State.CONNECTED, Role.INSTITUTION, Hello): State.IDENTIFIED,
        (State.IDENTIFIED, Role.COORDINATOR, Welcome): State.OPEN,
        (State.OPEN, Role.COORDINATOR, Query): State.OPEN,
        (State.OPEN, Role.COORDINATOR, RecipeQuery): State.OPEN,
        (State.OPEN, Role.INSTITUTION, Answer): State.OPEN,
        (State.OPEN, Role.INSTITUTION, Declined): State.OPEN,
        **{(state, role, Close): State.CLOSED for state in State for role in Role},
    }
)
"""(state, speaker, what is said) -> the next state. What is not here is unlawful."""


class Session:
    """One end's account of what was said so far. Not safe for threads.

    Attributes:
        state: how far the session is.
        card: the institution's, once it has said Hello.
        packs: whether the coordinator has said that it reads what we pack.
    """

    def __init__(self, role: Role, max_in_flight: int = MAX_IN_FLIGHT) -> None:
        self.state = State.CONNECTED
        self.card: Card | None = None
        self.packs = False
        self._role = role
        self._max_in_flight = max_in_flight
        self._last = 0
        self._unanswered: dict[int, Ask | PullBack | RecipeQuery] = {}
        self._undrawn: set[int] = set()

    @property
    def in_flight(self) -> int:
        """How many questions are to be answered; one whose images are to be shown is not yet."""
        return len(self._unanswered)

    def send(self, message: Message) -> None:
        """Takes down what we are about to say.

        Raises:
            LocalProtocolError: we may not say it; the session is as it was.
        """
        if objection := self._objection(self._role, message):
            raise LocalProtocolError(objection)
        self._take_down(self._role, message)

    def receive(self, message: Message | Invalid) -> None:
        """Takes down what they said.

        Raises:
            RemoteProtocolError: they may not say it; the session is as it was.
        """
        if isinstance(message, Invalid):
            raise RemoteProtocolError(message.reason)
        if objection := self._objection(self._role.other, message):
            raise RemoteProtocolError(objection)
        self._take_down(self._role.other, message)

    def _take_down(self, speaker: Role, message: Message) -> None:
        self.state = TRANSITIONS[self.state, speaker, type(message)]
        match message:
            case Hello(card=card):
                self.card = card
            case Welcome(packing=packing):
                self.packs = packing == PACKING_VERSION
            case Query(number, request):
                self._take_question(number, request)
            case RecipeQuery(number):
                self._take_question(number, message)
            case Answer(number) | Declined(number):
                del self._unanswered[number]
                if isinstance(message, Declined) and message.refusal.reason is Reason.UNDRAWN:
                    self._undrawn.add(number)

    def _take_question(self, number: int, question: Ask | PullBack | RecipeQuery) -> None:
        self._last = max(self._last, number)
        self._undrawn.discard(number)
        self._unanswered[number] = question

    def _objection(self, speaker: Role, message: Message) -> str | None:
        """Why ``speaker`` may not say ``message`` now; None where it may."""
        kind = type(message)
        if (self.state, speaker, kind) not in TRANSITIONS:
            state = self.state.name.lower()
            return f"{kind.__name__} from {speaker.value} in a session that is {state}"
        match message:
            case Query(number):
                return self._question_objection(number)
            case RecipeQuery(number):
                return self._recipe_objection(message) or self._question_objection(number)
            case Answer(number, reply) if number in self._unanswered:
                return _misfit(self._unanswered[number], reply, self.card)
            case Answer(number) | Declined(number) if number not in self._unanswered:
                return f"an answer to question {number}, which is not open"
            case Declined(number, Refusal(reason=Reason.UNDRAWN)):
                if not isinstance(self._unanswered[number], RecipeQuery):
                    return f"question {number} showed its images, and they were not drawn"
        return None

    def _recipe_objection(self, named: RecipeQuery) -> str | None:
        if self.card is None or self.card.recipes != RECIPE_VERSION:
            return f"a recipe of version {RECIPE_VERSION} for an institution that takes none of it"
        if exceeds_limits(named.recipe, self.card.shape):
            return f"a recipe of {named.recipe.count} images, which are too many of that size"
        if named.id in self._undrawn:
            return f"question {named.id} by recipe again, which could not be drawn"
        return None

    def _question_objection(self, number: int) -> str | None:
        if number in self._unanswered:
            return None
        if number <= self._last and number not in self._undrawn:
            return f"question {number} after question {self._last}: numbers rise"
        if self.in_flight == self._max_in_flight:
            return f"more than {self._max_in_flight} questions at a time"
        return None


def _misfit(request: Ask | PullBack | RecipeQuery, reply: Reply, card: Card | None) -> str | None:
    """Why ``reply`` does not answer ``request``; None where it does."""
    if isinstance(request, PullBack):
        if reply.signals or reply.gradient is None:
            return "an answer to a pull-back must be a gradient alone"
        return _wrong("a gradient", reply.gradient, tuple(request.images.shape), torch.float32)
    if reply.gradient is not None or set(reply.signals) != request.signals:
        asked = ", ".join(sorted(request.signals))
        return f"an answer must hold exactly the signals asked for: {asked}"
    rounded = torch.float32 if request.exact else torch.float16
    batch = len(request.recipe if isinstance(request, RecipeQuery) else request.images)
    for signal, tensor in reply.signals.items():
        dtype = torch.float32 if signal is Signal.BN_GAP else rounded
        shape = {
            Signal.LOGITS: (batch, card.classes if card else 0),
            Signal.BN_GAP: (),
            Signal.FEATURES: (batch, *tensor.shape[1:]),
        }[signal]
        if objection := _wrong(signal.value, tensor, shape, dtype):
            return objection
    return None


def _wrong(
    name: str, tensor: torch.Tensor, shape: tuple[int, ...], dtype: torch.dtype
) -> str | None:
    if tuple(tensor.shape) == shape and tensor.dtype == dtype:
        return None
    return f"{name} of shape {tuple(tensor.shape)} in {tensor.dtype}, expected {shape} in {dtype}"
