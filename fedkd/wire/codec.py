"""Messages to bytes and back, without copying what is large. Knows no state and no network.

`encode` refuses what the other side would not take, by the same checks, so that a defect shows
on the side that has it. Decoding never raises: bytes from elsewhere are a message, or `Invalid`.
Decoded tensors are views of the bytes and are not to be written to.

As in h11, a broken rule is always raised as ours, and turned into theirs in one place, `_decode`.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeVar

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from torch import Tensor

from fedkd.errors import LocalProtocolError, SettingsError
from fedkd.protocol import Ask, Card, Guarantee, PullBack, Reason, Refusal, Reply, Signal
from fedkd.wire.framing import join_envelope, split_envelope
from fedkd.wire.messages import (
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
    Welcome,
    check,
    one_line,
)
from fedkd.wire.recipes import recipe_in, recipe_out
from fedkd.wire.tensors import (
    COTANGENTS,
    GRADIENT,
    IMAGES,
    SIGNALS,
    TensorReader,
    TensorSpec,
    TensorWriter,
)
from fedkd.wire.v1 import teacher_pb2 as pb

SIGNAL_NUMBERS = {signal: pb.Signal.Value(f"SIGNAL_{signal.name}") for signal in Signal}
"""Of each signal; signals of one message stand in this order."""
_SIGNALS = {number: signal for signal, number in SIGNAL_NUMBERS.items()}
_REASON_NUMBERS = {reason: pb.Reason.Value(f"REASON_{reason.name}") for reason in Reason}
_REASONS = {number: reason for reason, number in _REASON_NUMBERS.items()}

_Said = TypeVar("_Said", FromInstitution, FromCoordinator)


def encode(message: Message, packed: bool = False) -> bytes:
    """The bytes of ``message``, equal to those of the generated serializer.

    Args:
        message: to be said.
        packed: whether whoever reads it takes packed logits (`Welcome.packing`).

    Raises:
        LocalProtocolError: the other side would not take it.
    """
    check(message)
    out = TensorWriter(packed)
    try:
        body = _envelope(message, out)
    except ValueError as error:  # a number out of protobuf's range
        raise LocalProtocolError(f"cannot be sent: {error}") from error
    return join_envelope(body.SerializeToString(), out.arrays)


def decode_from_institution(data: bytes) -> FromInstitution | Invalid:
    """What an institution said, or `Invalid`; never raises."""
    return _decode(data, pb.ConnectRequest, _FROM_INSTITUTION)


def decode_from_coordinator(data: bytes) -> FromCoordinator | Invalid:
    """What a coordinator said, or `Invalid`; never raises."""
    return _decode(data, pb.ConnectResponse, _FROM_COORDINATOR)


# --- out


def _envelope(message: Message, out: TensorWriter) -> pb.ConnectRequest | pb.ConnectResponse:
    match message:
        case Hello(version, token, card):
            hello = pb.Hello(version=version, token=token, card=_card_out(card))
            return pb.ConnectRequest(hello=hello)
        case Welcome():
            return pb.ConnectResponse(welcome=pb.Welcome(**vars(message)))
        case Query(number, request):
            if isinstance(request, Ask):
                return pb.ConnectResponse(ask=_ask_out(number, request, out))
            return pb.ConnectResponse(pull_back=_pull_back_out(number, request, out))
        case RecipeQuery():
            return pb.ConnectResponse(ask=_named_out(message, out))
        case Answer(number, reply):
            return pb.ConnectRequest(reply=_reply_out(number, reply, out))
        case Declined(number, refusal):
            reason = _REASON_NUMBERS[refusal.reason]
            return pb.ConnectRequest(
                refusal=pb.Refusal(id=number, reason=reason, text=refusal.text)
            )
        case Close(farewell):
            # Both envelopes have it under the same number.
            return pb.ConnectRequest(close=pb.Close(reason=farewell))


def _ask_out(number: int, ask: Ask, out: TensorWriter) -> pb.Ask:
    return pb.Ask(id=number, images=out.put(IMAGES, ask.images), **_wanted_out(ask))


def _named_out(named: RecipeQuery, out: TensorWriter) -> pb.Ask:
    recipe = recipe_out(named.recipe, named.images, out)
    return pb.Ask(id=named.id, recipe=recipe, **_wanted_out(named))


def _wanted_out(ask: Ask | RecipeQuery) -> dict[str, Any]:
    return {
        "signals": sorted(SIGNAL_NUMBERS[signal] for signal in ask.signals),
        "reply_dtype": pb.DTYPE_FLOAT32 if ask.exact else pb.DTYPE_FLOAT16,
    }


def _pull_back_out(number: int, pull_back: PullBack, out: TensorWriter) -> pb.PullBack:
    images = out.put(IMAGES, pull_back.images)
    cotangents = _said_out(pull_back.cotangents, COTANGENTS, out)
    return pb.PullBack(id=number, images=images, cotangents=cotangents)


def _reply_out(number: int, reply: Reply, out: TensorWriter) -> pb.Reply:
    said = _said_out(reply.signals, SIGNALS, out)
    gradient = None if reply.gradient is None else out.put(GRADIENT, reply.gradient)
    return pb.Reply(id=number, signals=said, gradient=gradient)


def _said_out(
    said: Mapping[Signal, Tensor], forms: Mapping[Signal, TensorSpec], out: TensorWriter
) -> list[pb.Said]:
    return [
        pb.Said(signal=SIGNAL_NUMBERS[signal], tensor=out.put(forms[signal], said[signal]))
        for signal in sorted(said, key=SIGNAL_NUMBERS.__getitem__)
    ]


def _card_out(card: Card) -> pb.Card:
    channels, height, width = card.shape
    return pb.Card(
        name=card.name,
        classes=card.classes,
        channels=channels,
        height=height,
        width=width,
        signals=sorted(SIGNAL_NUMBERS[signal] for signal in card.signals),
        pull_back=card.pull_back,
        samples=card.samples,
        largest_batch=card.largest_batch,
        class_counts=card.class_counts,
        scores=card.scores,
        class_names=card.class_names,
        guarantee=None if card.guarantee is None else pb.Guarantee(**vars(card.guarantee)),
        recipes=card.recipes,
    )


# --- in


def _decode(
    data: bytes,
    envelope: type[pb.ConnectRequest] | type[pb.ConnectResponse],
    readers: Mapping[str, Callable[..., _Said]],
) -> _Said | Invalid:
    try:
        body, places = split_envelope(data)
        parsed = envelope.FromString(body)
        kind = parsed.WhichOneof("body")
        if kind is None or parsed.payload:
            raise LocalProtocolError("a message without a body")
        contents = TensorReader(data, places)
        message = readers[kind](getattr(parsed, kind), contents)
        contents.finish()
        check(message)
    except DecodeError:
        return Invalid("bytes that are no message")
    except LocalProtocolError as error:
        return Invalid(str(error))
    return message


def _hello_in(hello: pb.Hello, _: TensorReader) -> Hello:
    return Hello(hello.version, hello.token, _card_in(hello.card))


def _welcome_in(welcome: pb.Welcome, _: TensorReader) -> Welcome:
    return Welcome(welcome.version, welcome.packing)


def _ask_in(ask: pb.Ask, contents: TensorReader) -> Query | RecipeQuery:
    if ask.reply_dtype not in (pb.DTYPE_FLOAT16, pb.DTYPE_FLOAT32):
        raise LocalProtocolError("asks for an answer of another type than float16 or float32")
    signals, exact = frozenset(_rising(ask.signals)), ask.reply_dtype == pb.DTYPE_FLOAT32
    if ask.HasField("recipe"):
        if ask.HasField("images"):
            raise LocalProtocolError("images beside a recipe")
        return RecipeQuery(
            ask.id, recipe_in(ask.recipe, contents), ask.recipe.images, signals, exact
        )
    return Query(ask.id, Ask(contents.take(IMAGES, ask.images), signals, exact))


def _pull_back_in(pull_back: pb.PullBack, contents: TensorReader) -> Query:
    images = contents.take(IMAGES, pull_back.images)
    return Query(
        pull_back.id, PullBack(images, _said_in(pull_back.cotangents, COTANGENTS, contents))
    )


def _answer_in(reply: pb.Reply, contents: TensorReader) -> Answer:
    signals = _said_in(reply.signals, SIGNALS, contents)
    has_gradient = reply.HasField("gradient")
    gradient = contents.take(GRADIENT, reply.gradient) if has_gradient else None
    return Answer(reply.id, Reply(signals, gradient))


def _declined_in(refusal: pb.Refusal, _: TensorReader) -> Declined:
    if refusal.reason not in _REASONS:
        raise LocalProtocolError("a refusal for an unknown reason")
    return Declined(refusal.id, Refusal(_REASONS[refusal.reason], one_line(refusal.text)))


def _close_in(close: pb.Close, _: TensorReader) -> Close:
    return Close(one_line(close.reason))


def _said_in(
    said: Sequence[pb.Said], forms: Mapping[Signal, TensorSpec], contents: TensorReader
) -> dict[Signal, Tensor]:
    signals = _rising([each.signal for each in said[: len(SIGNAL_NUMBERS) + 1]])
    return {
        signal: contents.take(forms[signal], each.tensor)
        for signal, each in zip(signals, said, strict=True)
    }


def _card_in(card: pb.Card) -> Card:
    if max(len(card.class_counts), len(card.class_names)) > card.classes:
        raise LocalProtocolError("a card with counts or names of more classes than it has")
    return Card(
        name=card.name,
        classes=card.classes,
        shape=(card.channels, card.height, card.width),
        signals=frozenset(_rising(card.signals)),
        pull_back=card.pull_back,
        samples=card.samples if card.HasField("samples") else None,
        largest_batch=card.largest_batch,
        class_counts=tuple(card.class_counts) or None,
        scores=card.scores,
        class_names=tuple(card.class_names) or None,
        guarantee=_guarantee_in(card.guarantee) if card.HasField("guarantee") else None,
        recipes=card.recipes,
    )


def _guarantee_in(said: pb.Guarantee) -> Guarantee:
    try:
        return Guarantee(
            said.epsilon,
            said.delta,
            said.steps,
            said.noise_multiplier,
            said.sampling_rate,
            said.clipping,
            said.unit,
            said.adjacency,
            said.mechanism,
            said.accountant,
            said.version,
            said.unpromised,
        )
    except SettingsError:
        raise LocalProtocolError("a card with a guarantee that cannot be") from None


def _rising(numbers: Sequence[int]) -> list[Signal]:
    """The signals of these numbers, which rise: so none is said twice."""
    if len(numbers) > len(SIGNAL_NUMBERS) or any(number not in _SIGNALS for number in numbers):
        raise LocalProtocolError("an unknown signal")
    if any(second <= first for first, second in pairwise(numbers)):
        raise LocalProtocolError("signals twice or out of order")
    return [_SIGNALS[number] for number in numbers]


_FROM_INSTITUTION: Mapping[str, Callable[..., FromInstitution]] = {
    "hello": _hello_in,
    "reply": _answer_in,
    "refusal": _declined_in,
    "close": _close_in,
}
_FROM_COORDINATOR: Mapping[str, Callable[..., FromCoordinator]] = {
    "welcome": _welcome_in,
    "ask": _ask_in,
    "pull_back": _pull_back_in,
    "close": _close_in,
}
