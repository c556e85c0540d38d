"""An attacker's HTTP/2: begins gRPC calls and never sends their requests.

gRPC's own clients cannot do that in numbers: each of their calls takes a thread or more. Frames are
those of RFC 9113, headers literals without indexing (RFC 7541, section 6.2.2).
"""

import socket
import ssl
import struct
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

STREAMS_OF_CONNECTION = 4
"""As many as the hub allows, see ``grpc.max_concurrent_streams``."""
SECONDS = 10.0
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADERS, SETTINGS, PING = 1, 4, 6
ACK, END_HEADERS = 1, 4


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + struct.pack(">BBI", kind, flags, stream) + payload


def headers(path: str) -> bytes:
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "localhost",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    return b"".join(
        bytes([0, len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in fields.items()
    )


def client_tls(folder: Path, name: str) -> ssl.SSLContext:
    """The certificate of an institution, for HTTP/2."""
    context = ssl.create_default_context(cafile=folder / "ca.pem")
    context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
    context.set_alpn_protocols(["h2"])
    return context


class HalfOpenStreams:
    """Calls of ``path`` that were begun and stay so, over as many connections as they need.

    Once made, the server has read all their headers.
    """

    def __init__(
        self, address: str, path: str, count: int, tls: ssl.SSLContext | None = None
    ) -> None:
        host, _, port = address.rpartition(":")
        self.sockets: list[socket.socket] = []
        for first in range(0, count, STREAMS_OF_CONNECTION):
            here = socket.create_connection((host, int(port)), SECONDS)
            if tls is not None:
                here = tls.wrap_socket(here, server_hostname="localhost")
            self.sockets.append(here)
            here.sendall(PREFACE + frame(SETTINGS, 0, 0) + frame(SETTINGS, ACK, 0))
            here.sendall(calls(path, range(first, min(count, first + STREAMS_OF_CONNECTION))))
        for here in self.sockets:
            await_ping(here)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for each in self.sockets:
            with suppress(OSError):
                each.close()


def calls(path: str, numbers: Iterable[int]) -> bytes:
    """Headers of calls that do not end here, and a PING after them."""
    block = headers(path)
    streams = (1 + 2 * (number % STREAMS_OF_CONNECTION) for number in numbers)
    begun = b"".join(frame(HEADERS, END_HEADERS, stream, block) for stream in streams)
    return begun + frame(PING, 0, 0, bytes(8))


def await_ping(here: socket.socket) -> None:
    """Reads until the PING was acknowledged: all that was sent before it has been read."""
    data = b""
    while True:
        while len(data) >= 9 and len(data) >= 9 + (size := int.from_bytes(data[:3], "big")):
            kind, flags = data[3], data[4]
            data = data[9 + size :]
            if kind == PING and flags & ACK:
                return
        more = here.recv(1 << 16)
        assert more, "the server closed the connection"
        data += more
