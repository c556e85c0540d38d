"""Frames on the owner's Unix socket: a length, then so many bytes. Knows no verb and no answer.

The law of a ring, which `fedkd.client.control.client` and `fedkd.client.control.server` share: a request in JSON goes in and
an answer in JSON comes out. Before an `evaluate` is answered, the bell says ``{"go": BYTES}`` and
a frame of weights of at most so many bytes follows. Then the line is closed.
"""

import json
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from fedkd.errors import RemoteProtocolError

LARGEST_MESSAGE = 1024 * 1024
"""Bytes of a frame of JSON."""
_LENGTH = struct.Struct(">I")
_PIECE = 256 * 1024
_WAIT = 0.02


@contextmanager
def dialled(path: str, seconds: float) -> Iterator[socket.socket]:
    """A line to the bell at ``path``, until the block ends.

    Raises:
        OSError: nobody is there, or has no room within ``seconds``.
    """
    deadline = time.monotonic() + seconds
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        line.settimeout(seconds)
        while True:
            try:
                line.connect(path)
                break
            except BlockingIOError:  # as many wait already as the system lets wait
                if time.monotonic() > deadline:
                    raise
                time.sleep(_WAIT)
        yield line


def send(line: socket.socket, content: bytes, seconds: float) -> None:
    """Say one frame.

    Raises:
        OSError: the other side is gone, or did not take it within ``seconds``.
    """
    line.settimeout(seconds)
    with suppress(BrokenPipeError):  # it has heard enough to refuse, and its answer can be heard
        line.sendall(_LENGTH.pack(len(content)))
        line.sendall(content)


def receive(line: socket.socket, limit: int, seconds: float) -> bytes:
    """Hear one frame, all of it within ``seconds``, however slowly its bytes drip in.

    Raises:
        RemoteProtocolError: it is larger than ``limit`` bytes, or cut short.
        OSError: the other side is gone or too slow.
    """
    deadline = time.monotonic() + seconds
    (length,) = _LENGTH.unpack(_exactly(line, _LENGTH.size, deadline))
    if length > limit:
        raise RemoteProtocolError(f"a frame of {length} bytes; at most {limit} are taken")
    return _exactly(line, length, deadline)


def say(line: socket.socket, message: Mapping[str, Any], seconds: float) -> None:
    """Say one frame of JSON.

    Raises:
        OSError: as `send`.
    """
    send(line, json.dumps(message).encode(), seconds)


def hear(line: socket.socket, seconds: float) -> dict[str, Any]:
    """Hear one frame of JSON.

    Raises:
        RemoteProtocolError: it is no JSON object, or no frame.
        OSError: as `receive`.
    """
    try:
        message = json.loads(receive(line, LARGEST_MESSAGE, seconds))
    except (ValueError, RecursionError):  # the latter where brackets are nested without end
        raise RemoteProtocolError("a frame that is no JSON") from None
    if not isinstance(message, dict):
        raise RemoteProtocolError("a frame that is no JSON object")
    return message


def _exactly(line: socket.socket, count: int, deadline: float) -> bytes:
    # It grows as bytes come: a length that is only announced takes no memory.
    content = bytearray()
    while len(content) < count:
        line.settimeout(max(deadline - time.monotonic(), 1e-3))
        piece = line.recv(min(count - len(content), _PIECE))
        if not piece:
            raise RemoteProtocolError("a frame that is cut short")
        content += piece
    return bytes(content)
