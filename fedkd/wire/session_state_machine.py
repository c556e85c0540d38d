"""Session state machine: which message either end may send in which state. Without I/O.

    CONNECTED --Hello--> IDENTIFIED --Welcome--> OPEN, in which queries and answers pass
    any of them --Close, from either--> CLOSED

All rules of the protocol are in this file, and they are the same for both ends. A violation by this
end is a LocalProtocolError, before anything is sent; one by the other end is a RemoteProtocolError.

Queries have numbers. A number increases with every query; a query may be repeated under its number
while it is unanswered; every number is answered once. A query by recipe is sent only to
institutions that accept recipes, and stays unanswered when its images could not be rendered: it is
repeated with the images.
"""

from collections.abc import Mapping
from enum import Enum, auto
from types import MappingProxyType

import torch

from fedkd.errors import LocalProtocolError, RemoteProtocolError
from fedkd.protocol import (
    RECIPE_VERSION,
    SCALARS,
    Ask,
    Card,
    PullBack,
    Reason,
    Refusal,
    Reply,
    Signal,
)
from fedkd.wire.logit_packing import PACKING_VERSION
from fedkd.wire.recipes import exceeds_limits
from fedkd.wire.session_messages import (
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

MAX_IN_FLIGHT = 2
"""Unanswered queries at a time: the second is sent while the first is answered."""
MAX_UNRENDERED = 64
"""Queries that may still come again with their images: the latest of them."""


class Role(Enum):
    """Which end of a session."""

    INSTITUTION = "the institution"
    COORDINATOR = "the coordinator"

    @property
    def other(self) -> "Role":
        """The other end."""
        return Role.COORDINATOR if self is Role.INSTITUTION else Role.INSTITUTION


class State(Enum):
    """State of a session."""

    CONNECTED = auto()
    """No message was sent."""
    IDENTIFIED = auto()
    """The institution has sent its Hello."""
    OPEN = auto()
    """Queries may be sent."""
    CLOSED = auto()
    """No further message but a Close that crossed another."""


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
"""(state, sender, message type) -> the next state. What is not here is a violation."""


class Session:
    """One end's view of a session. Not thread-safe.

    Attributes:
        state: of the session.
        card: the institution's, once its Hello was sent.
        packs: whether the coordinator's Welcome says that it reads packed logits.
    """

    def __init__(self, role: Role, max_in_flight: int = MAX_IN_FLIGHT) -> None:
        self.state = State.CONNECTED
        self.card: Card | None = None
        self.packs = False
        self._role = role
        self._max_in_flight = max_in_flight
        self._last = 0
        self._unanswered: dict[int, Ask | PullBack | RecipeQuery] = {}
        self._unrendered: dict[int, None] = {}  # in the order in which they were declined

    @property
    def in_flight(self) -> int:
        """Number of unanswered queries; one that waits for its images is not counted."""
        return len(self._unanswered)

    def send(self, message: Message) -> None:
        """Record a message that this end is about to send.

        Raises:
            LocalProtocolError: it may not be sent; the session is unchanged.
        """
        if violation := self._violation(self._role, message):
            raise LocalProtocolError(violation)
        self._record(self._role, message)

    def receive(self, message: Message | Invalid) -> None:
        """Record a message that the other end has sent.

        Raises:
            RemoteProtocolError: it may not be sent; the session is unchanged.
        """
        if isinstance(message, Invalid):
            raise RemoteProtocolError(message.reason)
        if violation := self._violation(self._role.other, message):
            raise RemoteProtocolError(violation)
        self._record(self._role.other, message)

    def _record(self, sender: Role, message: Message) -> None:
        self.state = TRANSITIONS[self.state, sender, type(message)]
        match message:
            case Hello(card=card):
                self.card = card
            case Welcome(packing=packing):
                self.packs = packing == PACKING_VERSION
            case Query(number, request):
                self._record_query(number, request)
            case RecipeQuery(number):
                self._record_query(number, message)
            case Answer(number) | Declined(number):
                del self._unanswered[number]
                if isinstance(message, Declined) and message.refusal.reason is Reason.UNDRAWN:
                    self._unrendered[number] = None
                    if len(self._unrendered) > MAX_UNRENDERED:
                        del self._unrendered[next(iter(self._unrendered))]

    def _record_query(self, number: int, query: Ask | PullBack | RecipeQuery) -> None:
        self._last = max(self._last, number)
        self._unrendered.pop(number, None)
        self._unanswered[number] = query

    def _violation(self, sender: Role, message: Message) -> str | None:
        """Why ``sender`` may not send ``message`` now; None where it may."""
        kind = type(message)
        if (self.state, sender, kind) not in TRANSITIONS:
            state = self.state.name.lower()
            return f"{kind.__name__} from {sender.value} in a session that is {state}"
        match message:
            case Query(number):
                return self._query_violation(number)
            case RecipeQuery(number):
                return self._recipe_violation(message) or self._query_violation(number)
            case Answer(number, reply) if number in self._unanswered:
                return _mismatch(self._unanswered[number], reply, self.card)
            case Answer(number) | Declined(number) if number not in self._unanswered:
                return f"an answer to query {number}, which is not open"
            case Declined(number, Refusal(reason=Reason.UNDRAWN)):
                if not isinstance(self._unanswered[number], RecipeQuery):
                    return f"query {number} sent its images, so nothing had to be rendered"
        return None

    def _recipe_violation(self, query: RecipeQuery) -> str | None:
        if self.card is None or self.card.recipes != RECIPE_VERSION:
            return (
                f"a recipe of version {RECIPE_VERSION} for an institution that does not accept it"
            )
        if exceeds_limits(query.recipe, self.card.shape):
            return f"a recipe of {query.recipe.count} images, which are too many of that size"
        if query.id in self._unrendered:
            return f"query {query.id} by recipe again, which could not be rendered"
        return None

    def _query_violation(self, number: int) -> str | None:
        if number in self._unanswered:
            return None
        if number <= self._last and number not in self._unrendered:
            return f"query {number} after query {self._last}: numbers increase"
        if self.in_flight == self._max_in_flight:
            return f"more than {self._max_in_flight} queries at a time"
        return None


def _mismatch(request: Ask | PullBack | RecipeQuery, reply: Reply, card: Card | None) -> str | None:
    """Why ``reply`` does not answer ``request``; None where it does."""
    if isinstance(request, PullBack):
        if reply.signals or reply.gradient is None:
            return "an answer to a pull-back must be a gradient alone"
        return _tensor_mismatch(
            "a gradient", reply.gradient, tuple(request.images.shape), torch.float32
        )
    if reply.gradient is not None or set(reply.signals) != request.signals:
        asked = ", ".join(sorted(request.signals))
        return f"an answer must hold exactly the signals asked for: {asked}"
    rounded = torch.float32 if request.exact else torch.float16
    batch = len(request.recipe if isinstance(request, RecipeQuery) else request.images)
    for signal, tensor in reply.signals.items():
        dtype = torch.float32 if signal in SCALARS else rounded
        shape = {
            Signal.LOGITS: (batch, card.classes if card else 0),
            Signal.BN_GAP: (),
            Signal.FEATURES: (batch, card.classes)
            if card and card.embedding
            else (batch, *tensor.shape[1:]),
            Signal.RELATIONS: (batch, batch),
            Signal.ACTIVATION: (),
        }[signal]
        if violation := _tensor_mismatch(signal.value, tensor, shape, dtype):
            return violation
    return None


def _tensor_mismatch(
    name: str, tensor: torch.Tensor, shape: tuple[int, ...], dtype: torch.dtype
) -> str | None:
    if tuple(tensor.shape) == shape and tensor.dtype == dtype:
        return None
    return f"{name} of shape {tuple(tensor.shape)} in {tensor.dtype}, expected {shape} in {dtype}"
