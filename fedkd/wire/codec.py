"""Codec: messages to protobuf bytes and back, without copying large payloads.

`encode` applies the same checks as the receiver, so that a defect shows on the side that has it.
Decoding never raises: received bytes are a message, or `Invalid`. Decoded tensors are views of the
bytes and are not to be written to.

As in h11, every violation is raised as a local one; `_decode` turns it into `Invalid`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from torch import Tensor

from fedkd.errors import LocalProtocolError
from fedkd.protocol import Ask, PullBack, Reason, Refusal, Reply, Signal
from fedkd.wire.cards import SIGNAL_NUMBERS, decode_card, encode_card, increasing_signals
from fedkd.wire.payload_framing import join_envelope, split_envelope
from fedkd.wire.recipes import decode_recipe, encode_recipe
from fedkd.wire.session_messages import (
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

_REASON_NUMBERS = {reason: pb.Reason.Value(f"REASON_{reason.name}") for reason in Reason}
_REASONS = {number: reason for reason, number in _REASON_NUMBERS.items()}

_Decoded = TypeVar("_Decoded", FromInstitution, FromCoordinator)


def encode(message: Message, packed: bool = False) -> bytes:
    """The bytes of ``message``, equal to those of the generated serializer.

    Args:
        message: to encode.
        packed: whether the receiver reads packed logits (`Welcome.packing`).

    Raises:
        LocalProtocolError: the other side would refuse it.
    """
    check(message)
    out = TensorWriter(packed)
    try:
        body = _to_protobuf(message, out)
    except ValueError as error:  # a number out of protobuf's range
        raise LocalProtocolError(f"cannot be sent: {error}") from error
    return join_envelope(body.SerializeToString(), out.arrays)


def decode_from_institution(data: bytes) -> FromInstitution | Invalid:
    """The message of an institution, or `Invalid`; never raises."""
    return _decode(data, pb.ConnectRequest, _FROM_INSTITUTION)


def decode_from_coordinator(data: bytes) -> FromCoordinator | Invalid:
    """The message of the coordinator, or `Invalid`; never raises."""
    return _decode(data, pb.ConnectResponse, _FROM_COORDINATOR)


# --- encoding


def _to_protobuf(message: Message, out: TensorWriter) -> pb.ConnectRequest | pb.ConnectResponse:
    match message:
        case Hello(version, token, card):
            hello = pb.Hello(version=version, token=token, card=encode_card(card))
            return pb.ConnectRequest(hello=hello)
        case Welcome():
            return pb.ConnectResponse(welcome=pb.Welcome(**vars(message)))
        case Query(number, request):
            if isinstance(request, Ask):
                return pb.ConnectResponse(ask=_encode_ask(number, request, out))
            return pb.ConnectResponse(pull_back=_encode_pull_back(number, request, out))
        case RecipeQuery():
            return pb.ConnectResponse(ask=_encode_recipe_query(message, out))
        case Answer(number, reply):
            return pb.ConnectRequest(reply=_encode_reply(number, reply, out))
        case Declined(number, refusal):
            reason = _REASON_NUMBERS[refusal.reason]
            return pb.ConnectRequest(
                refusal=pb.Refusal(id=number, reason=reason, text=refusal.text)
            )
        case Close(farewell):
            # Both envelopes have it under the same number.
            return pb.ConnectRequest(close=pb.Close(reason=farewell))


def _encode_ask(number: int, ask: Ask, out: TensorWriter) -> pb.Ask:
    return pb.Ask(id=number, images=out.put(IMAGES, ask.images), **_encode_signal_request(ask))


def _encode_recipe_query(query: RecipeQuery, out: TensorWriter) -> pb.Ask:
    recipe = encode_recipe(query.recipe, query.images, out)
    return pb.Ask(id=query.id, recipe=recipe, **_encode_signal_request(query))


def _encode_signal_request(ask: Ask | RecipeQuery) -> dict[str, Any]:
    return {
        "signals": sorted(SIGNAL_NUMBERS[signal] for signal in ask.signals),
        "reply_dtype": pb.DTYPE_FLOAT32 if ask.exact else pb.DTYPE_FLOAT16,
        "batch_statistics": ask.batch_statistics,
    }


def _encode_pull_back(number: int, pull_back: PullBack, out: TensorWriter) -> pb.PullBack:
    images = out.put(IMAGES, pull_back.images)
    cotangents = _encode_signals(pull_back.cotangents, COTANGENTS, out)
    return pb.PullBack(
        id=number,
        images=images,
        cotangents=cotangents,
        batch_statistics=pull_back.batch_statistics,
    )


def _encode_reply(number: int, reply: Reply, out: TensorWriter) -> pb.Reply:
    signals = _encode_signals(reply.signals, SIGNALS, out)
    gradient = None if reply.gradient is None else out.put(GRADIENT, reply.gradient)
    return pb.Reply(id=number, signals=signals, gradient=gradient)


def _encode_signals(
    signals: Mapping[Signal, Tensor], specs: Mapping[Signal, TensorSpec], out: TensorWriter
) -> list[pb.Said]:
    return [
        pb.Said(signal=SIGNAL_NUMBERS[signal], tensor=out.put(specs[signal], signals[signal]))
        for signal in sorted(signals, key=SIGNAL_NUMBERS.__getitem__)
    ]


# --- decoding


def _decode(
    data: bytes,
    envelope: type[pb.ConnectRequest] | type[pb.ConnectResponse],
    readers: Mapping[str, Callable[..., _Decoded]],
) -> _Decoded | Invalid:
    try:
        body, positions = split_envelope(data)
        parsed = envelope.FromString(body)
        kind = parsed.WhichOneof("body")
        if kind is None or parsed.payload:
            raise LocalProtocolError("a message without a body")
        contents = TensorReader(data, positions)
        message = readers[kind](getattr(parsed, kind), contents)
        contents.finish()
        check(message)
    except DecodeError:
        return Invalid("bytes that are no message")
    except LocalProtocolError as error:
        return Invalid(str(error))
    return message


def _decode_hello(hello: pb.Hello, _: TensorReader) -> Hello:
    return Hello(hello.version, hello.token, decode_card(hello.card))


def _decode_welcome(welcome: pb.Welcome, _: TensorReader) -> Welcome:
    return Welcome(welcome.version, welcome.packing)


def _decode_ask(ask: pb.Ask, contents: TensorReader) -> Query | RecipeQuery:
    if ask.reply_dtype not in (pb.DTYPE_FLOAT16, pb.DTYPE_FLOAT32):
        raise LocalProtocolError("a reply type other than float16 or float32")
    signals, exact = frozenset(increasing_signals(ask.signals)), ask.reply_dtype == pb.DTYPE_FLOAT32
    if ask.HasField("recipe"):
        if ask.HasField("images"):
            raise LocalProtocolError("images beside a recipe")
        recipe = decode_recipe(ask.recipe, contents)
        return RecipeQuery(
            *(ask.id, recipe, ask.recipe.images, signals, exact), ask.batch_statistics
        )
    images = contents.take(IMAGES, ask.images)
    return Query(ask.id, Ask(images, signals, exact, batch_statistics=ask.batch_statistics))


def _decode_pull_back(pull_back: pb.PullBack, contents: TensorReader) -> Query:
    images = contents.take(IMAGES, pull_back.images)
    cotangents = _decode_signals(pull_back.cotangents, COTANGENTS, contents)
    return Query(pull_back.id, PullBack(images, cotangents, pull_back.batch_statistics))


def _decode_answer(reply: pb.Reply, contents: TensorReader) -> Answer:
    signals = _decode_signals(reply.signals, SIGNALS, contents)
    has_gradient = reply.HasField("gradient")
    gradient = contents.take(GRADIENT, reply.gradient) if has_gradient else None
    return Answer(reply.id, Reply(signals, gradient))


def _decode_declined(refusal: pb.Refusal, _: TensorReader) -> Declined:
    if refusal.reason not in _REASONS:
        raise LocalProtocolError("a refusal for an unknown reason")
    return Declined(refusal.id, Refusal(_REASONS[refusal.reason], one_line(refusal.text)))


def _decode_close(close: pb.Close, _: TensorReader) -> Close:
    return Close(one_line(close.reason))


def _decode_signals(
    encoded: Sequence[pb.Said], specs: Mapping[Signal, TensorSpec], contents: TensorReader
) -> dict[Signal, Tensor]:
    signals = increasing_signals([each.signal for each in encoded[: len(SIGNAL_NUMBERS) + 1]])
    return {
        signal: contents.take(specs[signal], each.tensor)
        for signal, each in zip(signals, encoded, strict=True)
    }


_FROM_INSTITUTION: Mapping[str, Callable[..., FromInstitution]] = {
    "hello": _decode_hello,
    "reply": _decode_answer,
    "refusal": _decode_declined,
    "close": _decode_close,
}
_FROM_COORDINATOR: Mapping[str, Callable[..., FromCoordinator]] = {
    "welcome": _decode_welcome,
    "ask": _decode_ask,
    "pull_back": _decode_pull_back,
    "close": _decode_close,
}
