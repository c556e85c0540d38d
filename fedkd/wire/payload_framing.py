"""Message framing: an envelope of a small protobuf body and large payloads, without extra copies.

The generated serializer copies payloads into its own arena and out again, each way. Here only the
body passes through protobuf; payloads are the top-level field ``repeated bytes payload = 15``,
written and found by hand. The bytes are those that the generated code writes and reads.
"""

from collections.abc import Sequence

import numpy as np

from fedkd.errors import LocalProtocolError

MAX_MESSAGE_BYTES = 64 << 20
"""Largest message, both ways: a batch of 4,096 CIFAR images in float32 is 48 MiB."""

PAYLOAD_TAG = b"\x7a"
"""Field 15, length-delimited."""
MAX_BODY_BYTES = 1 << 20
MAX_FIELDS = 32
"""Most top-level fields of a message: more would only cost the reader time."""

_LENGTH_DELIMITED = 2
_FIXED_SIZES = {1: 8, 5: 4}


def join_envelope(body: bytes, payloads: Sequence[np.ndarray]) -> bytes:
    """Join ``body`` and ``payloads`` to one message; each payload is copied once.

    Raises:
        LocalProtocolError: the message is larger than MAX_MESSAGE_BYTES.
    """
    _check_body(body)
    parts: list[bytes | memoryview] = [body]
    for payload in payloads:
        parts += (PAYLOAD_TAG + _varint(payload.nbytes), payload.data)
    message = b"".join(parts)
    if len(message) > MAX_MESSAGE_BYTES:
        raise LocalProtocolError(_too_large(len(message)))
    return message


def split_envelope(data: bytes) -> tuple[bytes, list[slice]]:
    """Split a message into its body and the position of each payload; nothing large is copied.

    What is not a payload goes to the body unchanged, and protobuf validates it.

    Raises:
        LocalProtocolError: not an envelope, or one that is too large.
    """
    if len(data) > MAX_MESSAGE_BYTES:
        raise LocalProtocolError(_too_large(len(data)))
    body: list[bytes] = []
    payloads: list[slice] = []
    at = 0
    while at < len(data):
        if len(body) + len(payloads) == MAX_FIELDS:
            raise LocalProtocolError(f"more than {MAX_FIELDS} fields in one message")
        if data.startswith(PAYLOAD_TAG, at):
            length, start = _read_varint(data, at + 1)
            end = start + length
            payloads.append(slice(start, end))
        else:
            end = _end_of_field(data, at)
            body.append(data[at:end])
        if end > len(data):
            raise LocalProtocolError("the message is cut short")
        at = end
    joined = b"".join(body)
    _check_body(joined)
    return joined, payloads


def _too_large(size: int) -> str:
    return (
        f"a message of {size} bytes, at most {MAX_MESSAGE_BYTES} are taken; "
        "use smaller batches of images"
    )


def _check_body(body: bytes) -> None:
    if len(body) > MAX_BODY_BYTES:
        raise LocalProtocolError(f"a body of {len(body)} bytes, at most {MAX_BODY_BYTES} are taken")


def _end_of_field(data: bytes, at: int) -> int:
    tag, at = _read_varint(data, at)
    kind = tag & 7
    if kind == 0:
        # Ten bytes are the longest varint; protobuf validates the number itself.
        return _read_varint(data, at, longest=10)[1]
    if kind == _LENGTH_DELIMITED:
        length, at = _read_varint(data, at)
        return at + length
    if kind in _FIXED_SIZES:
        return at + _FIXED_SIZES[kind]
    raise LocalProtocolError(f"a field of wire type {kind}")


def _read_varint(data: bytes, at: int, longest: int = 5) -> tuple[int, int]:
    """The number at ``at``, and the offset of its end."""
    value = 0
    for place, byte in enumerate(data[at : at + longest]):
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value, at + place + 1
    raise LocalProtocolError("a number is cut short or too long")


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
