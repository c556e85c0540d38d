"""Baselines for the wire benchmark: a generated unary gRPC call, and a plain TCP connection.

Both are written in the obvious way: no session, no checks of values, no ledger.
"""

import importlib
import socket
import struct
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent import futures
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedkd.errors import SettingsError
from fedkd.server.hub.tls_certificates import server_credentials
from fedkd.simulations.benchmarks.child_process import child_process, wait_until_closed
from fedkd.simulations.benchmarks.fedkd_transport import (
    CLASSES,
    institution_credentials,
    preset_logits,
)
from fedkd.wire.grpc_channels import grpc

PROTO = """
syntax = "proto3";
package fedkd.benchmark;
service Teacher {
  rpc Ask(Images) returns (Logits);
  rpc AskInFloats(Floats) returns (Floats);
}
message Images { bytes content = 1; repeated uint32 shape = 2; string dtype = 3; }
message Logits { bytes content = 1; repeated uint32 shape = 2; }
message Floats { repeated float content = 1; repeated uint32 shape = 2; }
"""
NAME = "fedkd_benchmark_plain"
MAX_MESSAGE_BYTES = 64 << 20
OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # Channels of one process are then as separate as those of several.
    ("grpc.use_local_subchannel_pool", 1),
)


def generated(folder: Path) -> tuple[Any, Any]:
    """Generate messages and stubs of `PROTO` into ``folder``.

    Raises:
        SettingsError: grpcio-tools is not installed.
    """
    try:
        from grpc_tools import protoc
    except ImportError:
        raise SettingsError(
            "the plain call is generated with grpcio-tools; pip install 'fedkd[test]'"
        ) from None
    (folder / f"{NAME}.proto").write_text(PROTO)
    out = f"--python_out={folder}", f"--grpc_python_out={folder}"
    if protoc.main(["protoc", f"-I{folder}", *out, f"{NAME}.proto"]):
        raise SettingsError("the generator of the plain call failed; see above why")
    return imported(folder)


def imported(folder: Path) -> tuple[Any, Any]:
    """Import messages and stubs that were generated into ``folder``."""
    sys.path.insert(0, str(folder))
    try:
        return tuple(importlib.import_module(f"{NAME}_{kind}") for kind in ("pb2", "pb2_grpc"))  # type: ignore[return-value]
    finally:
        sys.path.remove(str(folder))


@dataclass(frozen=True)
class BaselineServers:
    """Baseline servers in another process, and connections to them.

    Attributes:
        messages: generated.
        stubs: one for each connection.
        with_tls: the same with mutual TLS; empty where no certificates were given.
        sockets: one for each connection.
        process: of all servers.
    """

    messages: Any
    stubs: Sequence[Any]
    with_tls: Sequence[Any]
    sockets: Sequence[socket.socket]
    process: int

    def unary(
        self, batches: Iterable[Tensor], count: int = 1, *, with_tls: bool = False
    ) -> list[Tensor]:
        """Send several queries to ``count`` servers before any is answered; returns all logits."""
        stubs = (self.with_tls if with_tls else self.stubs)[:count]
        calls = []
        for images in batches:
            array = images.numpy()
            question = self.messages.Images(
                content=array.tobytes(), shape=array.shape, dtype=array.dtype.name
            )
            calls += [stub.Ask.future(question) for stub in stubs]
        return [_logits_in(call.result()) for call in calls]

    def unary_in_floats(self, images: Tensor) -> Tensor:
        """Ask one server, with every number as a ``float`` of the message."""
        question = self.messages.Floats(content=images.numpy().ravel(), shape=images.shape)
        reply = self.stubs[0].AskInFloats(question)
        return torch.tensor(reply.content).view(tuple(reply.shape))

    def tcp(self, batches: Iterable[Tensor], count: int = 1) -> Tensor:
        """Send several queries to ``count`` servers before reading; returns the last reply."""
        sockets, sent = self.sockets[:count], 0
        for images in batches:
            data = images.numpy().data.cast("B")
            header = struct.pack("<QQ", len(data), len(images))
            for each in sockets:
                each.sendall(header)
                each.sendall(data)
            sent += 1
        reply = torch.empty(len(images), CLASSES)
        buffer = reply.numpy().data.cast("B")
        for _ in range(sent):
            for each in sockets:
                _read_into(each, buffer)
        return reply


def _logits_in(reply: Any) -> Tensor:
    array = np.frombuffer(reply.content, dtype=np.float32).reshape(tuple(reply.shape))
    return torch.from_numpy(array.copy())


@contextmanager
def baseline_servers(
    count: int, tls: Path | None = None, name: str = ""
) -> Iterator[BaselineServers]:
    """Servers in another process, with ``count`` connections to each kind, within the block.

    Args:
        count: of connections.
        tls: folder of certificates, for a second unary server; None for none.
        name: of the client of that one, as in its certificate.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fedkd-plain-")))
        messages, stubs = generated(folder)
        (port, with_tls, tcp_port), process = stack.enter_context(
            child_process(_servers, folder, count, tls)
        )
        channels = [
            grpc.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS) for _ in range(count)
        ]
        if tls is not None:
            to = f"127.0.0.1:{with_tls}"
            channels.append(
                grpc.secure_channel(to, institution_credentials(tls, name), options=OPTIONS)
            )
        for channel in channels:
            stack.enter_context(channel)
        stubs_ = [stubs.TeacherStub(channel) for channel in channels]
        sockets = [
            stack.enter_context(socket.create_connection(("127.0.0.1", tcp_port)))
            for _ in range(count)
        ]
        for each in sockets:
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield BaselineServers(messages, stubs_[:count], stubs_[count:], sockets, process)


# --- in the other process


def _servers(connection: Connection, folder: Path, count: int, tls: Path | None) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # torch's, of memory that is not to be written to
    messages, stubs = imported(folder)
    logits_ = preset_logits(4096)

    class Teacher(stubs.TeacherServicer):  # type: ignore[misc, name-defined]
        """Answers with precomputed logits."""

        def Ask(self, request: Any, context: Any) -> Any:  # noqa: N802
            array = np.frombuffer(request.content, dtype=request.dtype)
            images = torch.from_numpy(array.reshape(tuple(request.shape)))
            logits = logits_[: len(images)].numpy()
            return messages.Logits(content=logits.tobytes(), shape=logits.shape)

        def AskInFloats(self, request: Any, context: Any) -> Any:  # noqa: N802
            images = torch.tensor(request.content).view(tuple(request.shape))
            logits = logits_[: len(images)]
            return messages.Floats(content=logits.numpy().ravel(), shape=logits.shape)

    def serve(credentials: Any) -> tuple[grpc.Server, int]:
        server = grpc.server(futures.ThreadPoolExecutor(max(4, count)), options=OPTIONS)
        stubs.add_TeacherServicer_to_server(Teacher(), server)
        if credentials is None:
            port = server.add_insecure_port("127.0.0.1:0")
        else:
            port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        return server, port

    open_server, port = serve(None)
    with_tls, guarded_port = (None, 0) if tls is None else serve(server_credentials(tls))
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_accept, args=(listener, logits_), daemon=True).start()
    connection.send((port, guarded_port, listener.getsockname()[1]))
    wait_until_closed(connection)
    for server in (open_server, with_tls):
        if server is not None:
            server.stop(None)


def _accept(listener: socket.socket, logits_: Tensor) -> None:
    while True:
        peer, _ = listener.accept()
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=_answer, args=(peer, logits_), daemon=True).start()


def _answer(peer: socket.socket, logits_: Tensor) -> None:
    """Read every batch into the same buffer, and answer."""
    header, buffer = memoryview(bytearray(16)), memoryview(bytearray(MAX_MESSAGE_BYTES))
    try:
        while True:
            _read_into(peer, header)
            size, batch = struct.unpack("<QQ", header)
            _read_into(peer, buffer[:size])
            peer.sendall(logits_[:batch].numpy().data.cast("B"))
    except (ConnectionError, OSError):
        return


def _read_into(source: socket.socket, buffer: memoryview) -> None:
    while len(buffer):
        count = source.recv_into(buffer)
        if not count:
            raise ConnectionError("the other end is gone")
        buffer = buffer[count:]
