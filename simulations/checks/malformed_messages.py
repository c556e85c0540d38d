"""Rubbish for codec and session, and what must come of it. Knows no network.

Bytes that are random, and valid messages that were changed, cut, joined, repeated or sent in the
wrong order, meet a decoder and then a session. What is refused must be refused as `Invalid` or as
a ProtocolError; whatever else comes is a `DefectError`.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import torch

from fedkd.errors import LocalProtocolError, RemoteProtocolError
from fedkd.protocol import (
    RECIPES,
    Ask,
    Card,
    Network,
    Procedural,
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
    Named,
    Question,
    Role,
    Session,
    State,
    Welcome,
    decode_from_coordinator,
    decode_from_institution,
    encode,
)

SITTING = 50
"""Messages that a session hears, at most, before it is opened again."""
LARGE = (0, 1, 127, 128, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1)
"""Numbers at which number formats end."""

CARD = Card(
    *("north", 5, (3, 2, 2), frozenset(Signal)),
    pull_back=True,
    class_counts=(1, 2, 3, 4, 5),
    recipes=RECIPES,
)
IMAGES = torch.arange(48, dtype=torch.uint8).view(4, 3, 2, 2)
HALF = torch.tensor([True, False, True, False, True, False, True, False])
WEIGHTS = torch.linspace(-1, 1, 9).half()
LOGITS = torch.linspace(-1, 1, 20).view(4, 5)
ROWS = rounded(LOGITS * torch.tensor([[1.0], [2.0], [4.0], [80.0]]), Signal.LOGITS, exact=False)
"""The last of which is on no grid."""
EVERY = frozenset(Signal)

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
    Question(1, Ask(IMAGES)),
    Question(2, Ask(IMAGES.float() / 255, EVERY, exact=True)),
    Question(3, PullBack(IMAGES, {Signal.LOGITS: LOGITS, Signal.BN_GAP: torch.tensor(1.0)})),
    Named(4, Recipe(Procedural("pink", 0.5), 7, 8, HALF), bytes(16), EVERY),
    Named(5, Recipe(Network(3, fingerprint(WEIGHTS), WEIGHTS), 9, 4), bytes(16), EVERY, exact=True),
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
    """Something came that the protocol does not know."""


# --- what is sent

Spoil = Callable[[random.Random, Sequence[bytes]], bytes]
"""Bytes made of valid messages."""


def noise(rng: random.Random, _: Sequence[bytes]) -> bytes:
    """Bytes of no meaning."""
    return rng.randbytes(rng.randrange(200))


def untouched(rng: random.Random, valid: Sequence[bytes]) -> bytes:
    """A valid message, at whatever time."""
    return rng.choice(valid)


def mutated(rng: random.Random, valid: Sequence[bytes]) -> bytes:
    """A few bytes changed, put in or taken out."""
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
    """A number where numbers end, in the place of a byte."""
    data, number = rng.choice(valid), rng.choice(LARGE)
    at = rng.randrange(len(data))
    return data[:at] + _varint(number) + data[at + 1 :]


SPOILS: tuple[Spoil, ...] = (noise, untouched, mutated, truncated, spliced, repeated, giant)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


# --- who hears it


def hear(speaker: Role, session: Session, data: bytes) -> str:
    """One message through decoder and session: what came of it, in a word or two.

    Raises:
        DefectError: anything but the protocol's own errors, or a message that is no message.
    """
    decode = decode_from_institution if speaker is Role.INSTITUTION else decode_from_coordinator
    before = session.state
    try:
        message = decode(data)
        if not isinstance(message, Invalid):
            _check(message)
        session.receive(message)
    except RemoteProtocolError as error:
        if session.state is not before:
            raise DefectError("a session changed by what it refused") from error
        return "no message" if isinstance(message, Invalid) else "unlawful"
    except DefectError:
        raise
    except Exception as error:
        raise DefectError(f"{type(error).__name__}: {error}") from error
    return f"taken: {type(message).__name__}"


def _check(message: Message) -> None:
    """What was read can be said, and means the same: a decoder takes nothing that we never say."""
    try:
        said = encode(message)
    except LocalProtocolError as error:
        raise DefectError(f"a decoder took what an encoder refuses: {error}") from error
    tensors: list[torch.Tensor] = []
    match message:
        case Answer(reply=reply):
            tensors = [
                *reply.signals.values(),
                *([] if reply.gradient is None else [reply.gradient]),
            ]
        case Question(request=request):
            tensors = [request.images]
        case Named(recipe=Recipe(source=Network(weights=torch.Tensor() as weights))):
            tensors = [weights]
    if not all(bool(torch.isfinite(tensor.float()).all()) for tensor in tensors):
        raise DefectError("a number that is not finite")
    if sum(tensor.nbytes for tensor in tensors) > len(said):
        raise DefectError("more contents than came")


def opened(hearer: Role, rng: random.Random) -> Session:
    """A session as far as it may come, with questions open or not."""
    session = Session(hearer)
    roads: list[tuple[Role, Message]] = [
        (Role.INSTITUTION, FROM_INSTITUTION[0]),
        (Role.COORDINATOR, FROM_COORDINATOR[0]),
        (Role.COORDINATOR, FROM_COORDINATOR[1]),
        (Role.COORDINATOR, FROM_COORDINATOR[rng.choice((2, 3, 4, 5))]),
    ]
    for speaker, message in roads[: rng.randint(0, len(roads))]:
        (session.send if speaker is hearer else session.receive)(message)
    return session


def rubbish(count: int, seed: int) -> Iterator[tuple[Role, str, bytes, Session]]:
    """Speaker, kind, bytes and the session that hears them; the same for the same seed."""
    rng = random.Random(seed)
    sessions: dict[Role, Session] = {}
    heard: Counter[Role] = Counter()
    for _ in range(count):
        speaker = rng.choice(tuple(Role))
        session = sessions.get(speaker)
        if session is None or session.state is State.CLOSED or heard[speaker] >= SITTING:
            session = sessions[speaker] = opened(speaker.other, rng)
            heard[speaker] = 0
        heard[speaker] += 1
        spoil = rng.choice(SPOILS)
        yield speaker, spoil.__name__, spoil(rng, VALID[speaker]), session
