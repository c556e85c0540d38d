"""Length-prefixed frames on the control socket: connect, send and receive bytes or JSON.

The protocol that `fedkd.client.control.flower_forwarding` and `fedkd.client.control.server` share:
the client sends a request in JSON, the server answers in JSON. Before it answers an ``evaluate``,
the server sends ``{"go": BYTES}``, and the client sends a frame of weights of at most so many
bytes. Then the connection is closed.
"""

import json
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from fedkd.errors import RemoteProtocolError

MAX_JSON_BYTES = 1024 * 1024
"""Largest frame of JSON."""
_LENGTH = struct.Struct(">I")
_CHUNK = 256 * 1024
_RETRY_SECONDS = 0.02


@contextmanager
def connect(path: str, seconds: float) -> Iterator[socket.socket]:
    """A connection to the control socket at ``path``, until the block ends.

    Raises:
        OSError: nothing listens there, or its queue stays full for ``seconds``.
    """
    deadline = time.monotonic() + seconds
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(seconds)
        while True:
            try:
                connection.connect(path)
                break
            except BlockingIOError:  # the queue of the listening socket is full
                if time.monotonic() > deadline:
                    raise
                time.sleep(_RETRY_SECONDS)
        yield connection


def send_frame(connection: socket.socket, content: bytes, seconds: float) -> None:
    """Send one frame.

    Raises:
        OSError: the other side is gone, or did not take it within ``seconds``.
    """
    connection.settimeout(seconds)
    with suppress(
        BrokenPipeError
    ):  # the other side has refused already, and its answer can be read
        connection.sendall(_LENGTH.pack(len(content)))
        connection.sendall(content)


def receive_frame(connection: socket.socket, limit: int, seconds: float) -> bytes:
    """Receive one frame, all of it within ``seconds``, however slowly its bytes come.

    Raises:
        RemoteProtocolError: it is larger than ``limit`` bytes, or cut short.
        OSError: the other side is gone or too slow.
    """
    deadline = time.monotonic() + seconds
    (length,) = _LENGTH.unpack(_exactly(connection, _LENGTH.size, deadline))
    if length > limit:
        raise RemoteProtocolError(f"a frame of {length} bytes; at most {limit} are taken")
    return _exactly(connection, length, deadline)


def send_json(connection: socket.socket, message: Mapping[str, Any], seconds: float) -> None:
    """Send one frame of JSON.

    Raises:
        OSError: as `send_frame`.
    """
    send_frame(connection, json.dumps(message).encode(), seconds)


def receive_json(connection: socket.socket, seconds: float) -> dict[str, Any]:
    """Receive one frame of JSON.

    Raises:
        RemoteProtocolError: it is no JSON object, or no frame.
        OSError: as `receive_frame`.
    """
    try:
        message = json.loads(receive_frame(connection, MAX_JSON_BYTES, seconds))
    except (ValueError, RecursionError):  # the latter where brackets are nested without end
        raise RemoteProtocolError("a frame that is no JSON") from None
    if not isinstance(message, dict):
        raise RemoteProtocolError("a frame that is no JSON object")
    return message


def _exactly(connection: socket.socket, count: int, deadline: float) -> bytes:
    # It grows as bytes come: an announced length alone takes no memory.
    content = bytearray()
    while len(content) < count:
        connection.settimeout(max(deadline - time.monotonic(), 1e-3))
        piece = connection.recv(min(count - len(content), _CHUNK))
        if not piece:
            raise RemoteProtocolError("a frame that is cut short")
        content += piece
    return bytes(content)
