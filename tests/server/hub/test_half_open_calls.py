"""Calls that are begun and never finished take no institution's place, whatever they call."""

import time
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from fedkd.protocol import Ask
from fedkd.server.hub import handshake, health
from fedkd.server.hub.hub import Hub
from fedkd.server.hub.tls_certificates import make_certificates, server_credentials
from fedkd.wire.grpc_channels import METHOD, SERVICE, dial, grpc
from tests.support.half_open_streams import HalfOpenStreams, client_tls
from tests.support.hub_clients import (
    IMAGES,
    SOON,
    TOKEN,
    RawClient,
    agents,
    hello,
    honest_answer,
    wait_until,
)

CHECK, WATCH, UNKNOWN = (
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
    f"/{SERVICE}/Unknown",
)
MANY = 300
"""More than all places that the hub had for everybody: 272."""


@pytest.mark.parametrize("path", [CHECK, WATCH, UNKNOWN])
def test_half_open_calls_leave_institutions_alone(path: str) -> None:
    """300 of Check did lock everybody out, for as long as their sender liked."""
    with (
        Hub(TOKEN) as hub,
        agents(hub, before=honest_answer),
        HalfOpenStreams(hub.address, path, MANY),
    ):
        joined = []
        for number in range(5):  # the hub takes a moment to accept so many calls
            joined.append(RawClient(hub))
            joined[-1].join(f"late-{number}")
            answers, _ = hub.ask({"before": Ask(IMAGES)}, SOON)
            assert answers.keys() == {"before"}
            time.sleep(0.1)
        for each in joined:
            each.close()


def test_half_open_checks_end_and_are_then_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "CHECK_SECONDS", 0.3)
    with Hub(TOKEN) as hub, dial(hub.address, None) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        with HalfOpenStreams(hub.address, CHECK, MANY):

            def served() -> bool:
                try:
                    return bool(check(health_pb2.HealthCheckRequest(), timeout=SOON).status == 1)
                except grpc.RpcError as error:
                    refused.append(error.details())
                    return False

            refused: list[str] = []
            wait_until(served)
            assert set(refused) <= {"more than 8 health checks at a time"}


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"\xff\xff", grpc.StatusCode.INVALID_ARGUMENT),
        (bytes(health.MAX_REQUEST_BYTES + 1), grpc.StatusCode.INVALID_ARGUMENT),
        (b"\n\x05other", grpc.StatusCode.NOT_FOUND),
    ],
    ids=["garbage", "large", "another service"],
)
def test_a_check_of_nonsense_ends_with_a_status(sent: bytes, code: grpc.StatusCode) -> None:
    with Hub(TOKEN) as hub, dial(hub.address, None) as channel:
        with pytest.raises(grpc.RpcError) as raised:
            channel.unary_unary(CHECK)(sent, timeout=SOON)
        assert raised.value.code() is code


@pytest.mark.parametrize("path", [CHECK, f"/{SERVICE}/{METHOD}"])
def test_one_certificate_takes_no_place_of_another(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handshake, "HELLO_SECONDS", SOON)  # none ends by itself meanwhile
    monkeypatch.setattr(health, "CHECK_SECONDS", SOON)
    folder = tmp_path / "tls"
    make_certificates(folder, ["north", "south"])
    files = (folder / "ca.pem", folder / "south.key", folder / "south.pem")
    south = grpc.ssl_channel_credentials(*(file.read_bytes() for file in files))
    with (
        Hub(TOKEN, "127.0.0.1:0", server_credentials(folder)) as hub,
        HalfOpenStreams(hub.address, path, MANY, client_tls(folder, "north")),
    ):
        began = time.monotonic()
        honest = RawClient(hub, south)
        honest.join("south")
        with dial(hub.address, south) as channel:
            check = health_pb2_grpc.HealthStub(channel).Check
            assert check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=SOON).status == 1
        assert time.monotonic() - began < SOON
        honest.close()


def test_a_full_hub_refuses_one_more_and_takes_it_later() -> None:
    with Hub(TOKEN, max_institutions=2) as hub:
        first, second, third = (RawClient(hub) for _ in range(3))
        first.join("first")
        second.join("second")
        third.send(hello("third"))
        assert third.status() == ("RESOURCE_EXHAUSTED", "all 2 places are taken; try again later")
        first.close()
        wait_until(lambda: len(hub.cards) == 1)
        again = RawClient(hub)
        again.join("third")
        for each in (second, third, again):
            each.close()
