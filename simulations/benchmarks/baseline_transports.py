"""What our wire is held against: a generated unary call, and a bare TCP connection.

Each is written as anybody would write it who needs no more than this: no session, no law, no
check of a value, no books.
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
from fedkd.server.hub.certificates import server_credentials
from fedkd.simulations.benchmarks.child_process import partner, until_over
from fedkd.simulations.benchmarks.fedkd_transport import CLASSES, own, preset_logits
from fedkd.wire.channel import grpc

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
LARGEST = 64 << 20
OPTIONS = (
    ("grpc.max_receive_message_length", LARGEST),
    ("grpc.max_send_message_length", LARGEST),
    # Channels of one process are then as separate as those of several.
    ("grpc.use_local_subchannel_pool", 1),
)


def generated(folder: Path) -> tuple[Any, Any]:
    """Messages and stubs of `PROTO`, generated into ``folder``.

    Raises:
        SettingsError: there is no generator.
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
    """Messages and stubs that were generated into ``folder``."""
    sys.path.insert(0, str(folder))
    try:
        return tuple(importlib.import_module(f"{NAME}_{kind}") for kind in ("pb2", "pb2_grpc"))  # type: ignore[return-value]
    finally:
        sys.path.remove(str(folder))


@dataclass(frozen=True)
class Plain:
    """Servers that are here, and connections to them.

    Attributes:
        messages: generated.
        stubs: one a connection.
        guarded: the same with mutual TLS; none where no certificates were given.
        sockets: one a connection.
        process: of all servers.
    """

    messages: Any
    stubs: Sequence[Any]
    guarded: Sequence[Any]
    sockets: Sequence[socket.socket]
    process: int

    def unary(
        self, batches: Iterable[Tensor], count: int = 1, *, guarded: bool = False
    ) -> list[Tensor]:
        """Put several questions to ``count`` servers before any is answered; all logits."""
        stubs = (self.guarded if guarded else self.stubs)[:count]
        calls = []
        for images in batches:
            array = images.numpy()
            question = self.messages.Images(
                content=array.tobytes(), shape=array.shape, dtype=array.dtype.name
            )
            calls += [stub.Ask.future(question) for stub in stubs]
        return [_logits_in(call.result()) for call in calls]

    def unary_in_floats(self, images: Tensor) -> Tensor:
        """Ask one server, every number a ``float`` of the message."""
        question = self.messages.Floats(content=images.numpy().ravel(), shape=images.shape)
        reply = self.stubs[0].AskInFloats(question)
        return torch.tensor(reply.content).view(tuple(reply.shape))

    def tcp(self, batches: Iterable[Tensor], count: int = 1) -> Tensor:
        """Send several questions to ``count`` servers before any reply is read; the last one."""
        sockets, sent = self.sockets[:count], 0
        for images in batches:
            data = images.numpy().data.cast("B")
            header = struct.pack("<QQ", len(data), len(images))
            for each in sockets:
                each.sendall(header)
                each.sendall(data)
            sent += 1
        reply = torch.empty(len(images), CLASSES)
        place = reply.numpy().data.cast("B")
        for _ in range(sent):
            for each in sockets:
                _read_into(each, place)
        return reply


def _logits_in(reply: Any) -> Tensor:
    array = np.frombuffer(reply.content, dtype=np.float32).reshape(tuple(reply.shape))
    return torch.from_numpy(array.copy())


@contextmanager
def plain(count: int, tls: Path | None = None, name: str = "") -> Iterator[Plain]:
    """Servers in another process and ``count`` connections to each kind, for the time of a block.

    Args:
        count: of connections.
        tls: folder of certificates, for a second unary server; None for none.
        name: of whoever dials that one, as in a certificate.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fedkd-plain-")))
        messages, stubs = generated(folder)
        (port, guarded, bare), process = stack.enter_context(partner(_servers, folder, count, tls))
        channels = [
            grpc.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS) for _ in range(count)
        ]
        if tls is not None:
            to = f"127.0.0.1:{guarded}"
            channels.append(grpc.secure_channel(to, own(tls, name), options=OPTIONS))
        for channel in channels:
            stack.enter_context(channel)
        made = [stubs.TeacherStub(channel) for channel in channels]
        sockets = [
            stack.enter_context(socket.create_connection(("127.0.0.1", bare))) for _ in range(count)
        ]
        for each in sockets:
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield Plain(messages, made[:count], made[count:], sockets, process)


# --- in the other process


def _servers(connection: Connection, folder: Path, count: int, tls: Path | None) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # torch's, of memory that is not to be written to
    messages, stubs = imported(folder)
    ready = preset_logits(4096)

    class Teacher(stubs.TeacherServicer):  # type: ignore[misc, name-defined]
        """Has its answers ready."""

        def Ask(self, request: Any, context: Any) -> Any:  # noqa: N802
            array = np.frombuffer(request.content, dtype=request.dtype)
            images = torch.from_numpy(array.reshape(tuple(request.shape)))
            logits = ready[: len(images)].numpy()
            return messages.Logits(content=logits.tobytes(), shape=logits.shape)

        def AskInFloats(self, request: Any, context: Any) -> Any:  # noqa: N802
            images = torch.tensor(request.content).view(tuple(request.shape))
            logits = ready[: len(images)]
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
    guarded, guarded_port = (None, 0) if tls is None else serve(server_credentials(tls))
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_accept, args=(listener, ready), daemon=True).start()
    connection.send((port, guarded_port, listener.getsockname()[1]))
    until_over(connection)
    for server in (open_server, guarded):
        if server is not None:
            server.stop(None)


def _accept(listener: socket.socket, ready: Tensor) -> None:
    while True:
        peer, _ = listener.accept()
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=_answer, args=(peer, ready), daemon=True).start()


def _answer(peer: socket.socket, ready: Tensor) -> None:
    """Reads every batch that comes into one place, and answers."""
    header, place = memoryview(bytearray(16)), memoryview(bytearray(LARGEST))
    try:
        while True:
            _read_into(peer, header)
            size, batch = struct.unpack("<QQ", header)
            _read_into(peer, place[:size])
            peer.sendall(ready[:batch].numpy().data.cast("B"))
    except (ConnectionError, OSError):
        return


def _read_into(source: socket.socket, place: memoryview) -> None:
    while len(place):
        count = source.recv_into(place)
        if not count:
            raise ConnectionError("the other end is gone")
        place = place[count:]
