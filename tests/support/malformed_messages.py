"""Malformed messages for fuzzing codec and session, and the check of their outcome.

Random bytes, and valid messages that were mutated, truncated, spliced, repeated or sent in the
wrong order, are decoded and then received by a session. They must be refused as `Invalid` or by a
ProtocolError; any other outcome is a `DefectError`.
"""

import random
from collections.abc import Callable, Sequence

import torch

from fedkd.errors import LocalProtocolError, RemoteProtocolError
from fedkd.protocol import (
    RECIPE_VERSION,
    Ask,
    Card,
    FrozenGenerator,
    NamedPrior,
    PullBack,
    Reason,
    Recipe,
    Refusal,
    Reply,
    Signal,
    fingerprint,
    rounded,
)
from fedkd.wire import (
    VERSION,
    Answer,
    Close,
    Declined,
    FromCoordinator,
    FromInstitution,
    Hello,
    Invalid,
    Message,
    Query,
    RecipeQuery,
    Role,
    Session,
    Welcome,
    decode_from_coordinator,
    decode_from_institution,
    encode,
)

LIMIT_NUMBERS = (0, 1, 127, 128, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1)
"""Numbers at the limits of number formats."""

CARD = Card(
    *("north", 5, (3, 2, 2), frozenset(Signal)),
    pull_back=True,
    class_counts=(1, 2, 3, 4, 5),
    recipes=RECIPE_VERSION,
)
IMAGES = torch.arange(48, dtype=torch.uint8).view(4, 3, 2, 2)
MASK = torch.tensor([True, False, True, False, True, False, True, False])
WEIGHTS = torch.linspace(-1, 1, 9).half()
LOGITS = torch.linspace(-1, 1, 20).view(4, 5)
ROWS = rounded(LOGITS * torch.tensor([[1.0], [2.0], [4.0], [80.0]]), Signal.LOGITS, exact=False)
"""Rounded logits; the last row is not quantised."""
ALL_SIGNALS = frozenset(Signal)

FROM_INSTITUTION: tuple[FromInstitution, ...] = (
    Hello(VERSION, "token", CARD),
    Answer(1, Reply({Signal.LOGITS: LOGITS.half()})),
    Answer(2, Reply({Signal.LOGITS: LOGITS, Signal.BN_GAP: torch.tensor(0.5)})),
    Answer(3, Reply(gradient=torch.zeros(4, 3, 2, 2))),
    Declined(2, Refusal(Reason.SPENT, "nothing left")),
    Declined(4, Refusal(Reason.UNDRAWN, "show them")),
    Close("enough"),
)
FROM_COORDINATOR: tuple[FromCoordinator, ...] = (
    Welcome(VERSION),
    Query(1, Ask(IMAGES)),
    Query(2, Ask(IMAGES.float() / 255, ALL_SIGNALS, exact=True)),
    Query(3, PullBack(IMAGES, {Signal.LOGITS: LOGITS, Signal.BN_GAP: torch.tensor(1.0)})),
    RecipeQuery(4, Recipe(NamedPrior("pink", 0.5), 7, 8, MASK), bytes(16), ALL_SIGNALS),
    RecipeQuery(
        5,
        Recipe(FrozenGenerator(3, fingerprint(WEIGHTS), WEIGHTS), 9, 4),
        bytes(16),
        ALL_SIGNALS,
        exact=True,
    ),
    Close("over"),
)
VALID: dict[Role, tuple[bytes, ...]] = {
    Role.INSTITUTION: (
        *(encode(each) for each in FROM_INSTITUTION),
        encode(Answer(1, Reply({Signal.LOGITS: ROWS})), packed=True),
    ),
    Role.COORDINATOR: tuple(encode(each) for each in FROM_COORDINATOR),
}


class DefectError(Exception):
    """An outcome that the protocol does not allow."""


# --- messages

Mutation = Callable[[random.Random, Sequence[bytes]], bytes]
"""Makes bytes from valid messages."""


def noise(rng: random.Random, _: Sequence[bytes]) -> bytes:
    """Random bytes."""
    return rng.randbytes(rng.randrange(200))


def untouched(rng: random.Random, valid: Sequence[bytes]) -> bytes:
    """A valid message, at any time."""
    return rng.choice(valid)


def mutated(rng: random.Random, valid: Sequence[bytes]) -> bytes:
    """A few bytes changed, inserted or removed."""
    data = bytearray(rng.choice(valid))
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        data[at : at + rng.randint(0, 2)] = rng.randbytes(rng.randint(0, 2))
    return bytes(data)


def truncated(rng: random.Random, valid: Sequence[bytes]) -> bytes:
    """Cut short."""
    data = rng.choice(valid)
    return data[: rng.randrange(len(data))]


def spliced(rng: random.Random, valid: Sequence[bytes]) -> bytes:
    """The head of one message and the tail of another."""
    head, tail = rng.choice(valid), rng.choice(valid)
    return head[: rng.randrange(len(head) + 1)] + tail[rng.randrange(len(tail) + 1) :]


def repeated(rng: random.Random, valid: Sequence[bytes]) -> bytes:
    """A message, or a piece of it, many times."""
    data = rng.choice(valid)
    start = rng.randrange(len(data))
    return data + data[start : start + rng.randint(1, 20)] * rng.randint(1, 40)


def giant(rng: random.Random, valid: Sequence[bytes]) -> bytes:
    """A byte replaced by a number at the limit of a format."""
    data, number = rng.choice(valid), rng.choice(LIMIT_NUMBERS)
    at = rng.randrange(len(data))
    return data[:at] + _varint(number) + data[at + 1 :]


MUTATIONS: tuple[Mutation, ...] = (noise, untouched, mutated, truncated, spliced, repeated, giant)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


# --- receiver


def deliver(sender: Role, session: Session, data: bytes) -> str:
    """Pass one message through decoder and session; returns the outcome.

    Raises:
        DefectError: any error other than the protocol's, or a decoded message that is invalid.
    """
    decode = decode_from_institution if sender is Role.INSTITUTION else decode_from_coordinator
    before = session.state
    try:
        message = decode(data)
        if not isinstance(message, Invalid):
            _check(message)
        session.receive(message)
    except RemoteProtocolError as error:
        if session.state is not before:
            raise DefectError("a refused message changed the session") from error
        return "undecodable" if isinstance(message, Invalid) else "protocol error"
    except DefectError:
        raise
    except Exception as error:
        raise DefectError(f"{type(error).__name__}: {error}") from error
    return f"accepted: {type(message).__name__}"


def _check(message: Message) -> None:
    """A decoded message can be encoded again: a decoder accepts only what an encoder can send."""
    try:
        encoded = encode(message)
    except LocalProtocolError as error:
        raise DefectError(f"a decoder accepted what an encoder refuses: {error}") from error
    tensors: list[torch.Tensor] = []
    match message:
        case Answer(reply=reply):
            tensors = [
                *reply.signals.values(),
                *([] if reply.gradient is None else [reply.gradient]),
            ]
        case Query(request=request):
            tensors = [request.images]
        case RecipeQuery(recipe=Recipe(source=FrozenGenerator(weights=torch.Tensor() as weights))):
            tensors = [weights]
    if not all(bool(torch.isfinite(tensor.float()).all()) for tensor in tensors):
        raise DefectError("a number that is not finite")
    if sum(tensor.nbytes for tensor in tensors) > len(encoded):
        raise DefectError("more content than was received")


def open_session(receiver: Role, rng: random.Random) -> Session:
    """A session in a random state, with queries pending or not."""
    session = Session(receiver)
    exchange: list[tuple[Role, Message]] = [
        (Role.INSTITUTION, FROM_INSTITUTION[0]),
        (Role.COORDINATOR, FROM_COORDINATOR[0]),
        (Role.COORDINATOR, FROM_COORDINATOR[1]),
        (Role.COORDINATOR, FROM_COORDINATOR[rng.choice((2, 3, 4, 5))]),
    ]
    for sender, message in exchange[: rng.randint(0, len(exchange))]:
        (session.send if sender is receiver else session.receive)(message)
    return session
