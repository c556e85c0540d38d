"""What a stranger may cost the hub before it has shown a token."""

import time

import pytest

from fedkd.server.hub import handshake
from fedkd.server.hub.hub import Hub
from fedkd.wire import encode
from fedkd.wire.grpc_channels import METHOD, SERVICE, dial, grpc
from tests.support.hub_clients import SOON, TOKEN, RawClient, hello, names, wait_until


def test_streams_without_a_hello_lock_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """272 of them did, for as long as their handshakes may take."""
    monkeypatch.setattr(handshake, "MAX_HANDSHAKES_OF_HOST", 3)
    monkeypatch.setattr(handshake, "HELLO_SECONDS", 1.0)
    with Hub(TOKEN) as hub:
        silent = [RawClient(hub) for _ in range(3)]
        wait_until(lambda: len(hub._handshakes) == 3)
        assert RawClient(hub).status() == (
            "RESOURCE_EXHAUSTED",
            "more than 3 streams without a Hello",
        )
        began = time.monotonic()
        for each in silent:
            assert each.status()[0] == "DEADLINE_EXCEEDED"
        assert time.monotonic() - began < SOON
        honest = RawClient(hub)
        honest.join("north")
        for each in (*silent, honest):
            each.close()
        assert len(hub._handshakes) == 0


def test_a_first_message_is_small() -> None:
    with Hub(TOKEN) as hub:
        raw = RawClient(hub)
        raw.send(bytes(handshake.MAX_HELLO_BYTES + 1))
        assert raw.status() == ("INVALID_ARGUMENT", "a Hello of too many bytes")
        raw.close()


def test_compressed_messages_are_refused() -> None:
    """24 gzipped first messages of 58 MiB took 0.5 to 2.5 GB before any token."""
    with Hub(TOKEN) as hub, dial(hub.address, None) as channel:
        call = channel.stream_stream(f"/{SERVICE}/{METHOD}")
        padded = hello(token="a" * 100_000)  # gRPC leaves small ones as they are
        stream = call(iter([encode(padded)]), compression=grpc.Compression.Gzip, timeout=SOON)
        with pytest.raises(grpc.RpcError):
            next(stream)
        assert stream.code() != grpc.StatusCode.UNAUTHENTICATED, stream.details()
        assert "ompress" in stream.details()
        assert names(hub) == set()
