"""gRPC channels and servers: options that both ends must agree on, TLS or loopback only.

Import ``grpc`` from here, so that the environment is set before its first import.
"""

import ipaddress
import os
from collections.abc import Awaitable, Callable, Iterator

# A data loader that forks while a stream is open hangs unless gRPC's fork support is off.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import grpc as grpc
import grpc.aio

from fedkd.errors import SettingsError
from fedkd.wire.payload_framing import MAX_MESSAGE_BYTES

SERVICE = "fedkd.wire.v1.TeacherHubService"
METHOD = "Connect"

_BOTH = (
    # Outgoing messages are measured where they are encoded.
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # A frozen peer is found by this one alone. Pings queue behind data: it must exceed the time
    # that the largest message takes on the slowest link.
    ("grpc.http2.ping_timeout_ms", 30_000),
    # A session is idle while the student trains, and must not look dead on the way.
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.keepalive_permit_without_calls", 1),
)
_HUB = (
    *_BOTH,
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.server_handshake_timeout_ms", 5_000),
    ("grpc.max_concurrent_streams", 4),
    # Identity alone: a few kilobytes of gzip would become a whole message before any token.
    ("grpc.compression_enabled_algorithms_bitset", 1),
    # A second hub on the same port would share it in silence.
    ("grpc.so_reuseport", 0),
)
_INSTITUTION = (
    *_BOTH,
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # Agents in one process are then as separate as agents on two machines.
    ("grpc.use_local_subchannel_pool", 1),
)

Connect = Callable[[grpc.aio.ServicerContext], Awaitable[None]]
"""Handler of the hub for one stream of bytes."""


def dial(address: str, credentials: grpc.ChannelCredentials | None) -> grpc.Channel:
    """Open a new channel to the hub at ``address``; nothing is sent yet.

    Raises:
        SettingsError: plain text to another machine.
    """
    if credentials is None:
        refuse_plain_text(address)
        return grpc.insecure_channel(address, options=_INSTITUTION)
    return grpc.secure_channel(address, credentials, options=_INSTITUTION)


def open_stream(channel: grpc.Channel, outbox: Iterator[bytes]) -> grpc.Call:
    """Open the stream: iterate over what the hub sends, send what ``outbox`` yields.

    It fails at once where no server listens: the agent retries, and can report why it waits.
    """
    # Bytes in, bytes out: an exception in a deserializer of gRPC's would end a stream in silence.
    return channel.stream_stream(f"/{SERVICE}/{METHOD}")(outbox)


def create_server(
    connect: Connect,
    address: str,
    credentials: grpc.ServerCredentials | None,
    max_message_bytes: int,
) -> tuple[grpc.aio.Server, int]:
    """Create a server on ``address``, not yet started; call it on the server's own event loop.

    It has no limit on concurrent calls as a whole: such a limit counts calls that were begun and
    never finished, so that few peers could lock all others out. Every handler has limits of its
    own, and an unknown method is refused at once.

    Returns:
        The server, and its port.

    Raises:
        SettingsError: ``address`` is not available, or is plain text for other machines.
    """
    if credentials is None:
        refuse_plain_text(address)

    async def stream(_: object, context: grpc.aio.ServicerContext) -> None:
        await connect(context)

    methods = {METHOD: grpc.stream_stream_rpc_method_handler(stream)}
    server = grpc.aio.server(
        handlers=(grpc.method_handlers_generic_handler(SERVICE, methods),),
        options=(*_HUB, ("grpc.max_receive_message_length", max_message_bytes)),
    )
    try:
        if credentials is None:
            return server, server.add_insecure_port(address)
        return server, server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise SettingsError(
            f"cannot listen on {address}: the port is in use, or the address is not of this "
            "machine; choose another port, or port 0 for any that is free"
        ) from error


def host_of(address: str) -> str:
    """The host in ``host:port``.

    Raises:
        SettingsError: ``address`` is not of that form.
    """
    host, colon, port = address.rpartition(":")
    if not (host and colon and port.isdecimal()):
        raise SettingsError(f"address {address!r}, expected host:port, as in 127.0.0.1:9092")
    return host


def refuse_plain_text(address: str) -> None:
    """Allow connections without TLS on this machine only.

    Raises:
        SettingsError: ``address`` is of another machine, or is no host:port.
    """
    host = host_of(address).strip("[]")
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    if not local:
        raise SettingsError(
            f"plain text on {address}, which other machines can read; give credentials (TLS), "
            "or use 127.0.0.1"
        )
