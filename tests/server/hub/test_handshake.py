"""What a stranger may cost the hub before it has shown a token."""

import time
from dataclasses import replace
from importlib.metadata import version

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


@pytest.mark.parametrize(
    ("theirs", "ours", "admitted"),
    [
        ("", "0.2.0", True),
        ("0.2.9", "0.2.0", True),
        ("0.3.0", "0.2.0", False),
        ("1.0.0", "0.2.0", False),
        ("1.4.0", "1.0.2", True),
        ("2.0.0", "1.9.0", False),
        ("nonsense", "0.2.0", False),
    ],
)
def test_version_skew(theirs: str, ours: str, admitted: bool) -> None:
    assert (handshake.version_skew(theirs, ours) is None) == admitted


def test_an_institution_of_another_version_is_refused_with_the_way_out() -> None:
    with Hub(TOKEN) as hub:
        raw, greeting = RawClient(hub), hello()
        raw.send(encode(replace(greeting, card=replace(greeting.card, fedkd_version="9.1.0"))))
        code, reason = raw.status()
        raw.close()
        own = version("fedkd")
        assert code == "FAILED_PRECONDITION"
        assert reason.startswith(f"fedkd 9.1.0 at the institution, {own} at the coordinator; ")
