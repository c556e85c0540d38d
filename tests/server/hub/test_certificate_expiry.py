"""A session ends when its client certificate does, with real certificates that live for seconds."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fedkd.protocol import Ask
from fedkd.server.hub.hub import Hub
from fedkd.server.hub.tls_certificates import make_certificates
from fedkd.wire import Answer, Query, encode
from fedkd.wire.grpc_channels import grpc, open_stream
from tests.support.hub_clients import (
    IMAGES,
    SOON,
    TOKEN,
    RawClient,
    hello,
    honest_answer,
    wait_until,
)
from tests.support.short_certificates import (
    channel_credentials,
    expiring_certificates,
    hub_credentials,
)

LIFETIME = 4.0
"""Seconds: a handshake and a question take a fraction of that on a loaded machine."""


def answer_next(client: RawClient) -> None:
    question = client.receive()
    assert isinstance(question, Query)
    client.send(Answer(question.id, honest_answer(question.request)))


def test_a_session_ends_with_its_certificate_and_the_name_may_come_back(tmp_path: Path) -> None:
    long, short = tmp_path / "long", tmp_path / "short"
    make_certificates(long, ["north"])
    end = expiring_certificates(short, "north", LIFETIME)
    credentials = hub_credentials(tmp_path / "hub", long, short)
    with Hub(TOKEN, "127.0.0.1:0", credentials) as hub, ThreadPoolExecutor(1) as pool:
        old = RawClient(hub, channel_credentials(short, "north", long))
        old.join("north")
        first = pool.submit(hub.ask, {"north": Ask(IMAGES)}, SOON)
        answer_next(old)
        assert first.result(SOON)[0].keys() == {"north"}

        pending = pool.submit(hub.ask, {"north": Ask(IMAGES)}, 2 * SOON)
        unanswered = old.receive()
        assert isinstance(unanswered, Query)
        status, why = old.status()
        assert datetime.now(UTC) > end
        assert status == "UNAUTHENTICATED"
        assert why == (
            f"the certificate of 'north' expired on {end:%Y-%m-%d %H:%M:%S} UTC; "
            "come back with a renewed one"
        )
        wait_until(lambda: hub.counters["north"].end_reason == why)
        assert hub.counters["north"].protocol_violations == 0

        again = open_stream(old.channel, iter([encode(hello())]))  # TLS took place before
        with pytest.raises(grpc.RpcError):
            next(again)
        assert (again.code().name, again.details()) == (status, why)
        late = RawClient(hub, channel_credentials(short, "north", long))
        assert late.status()[0] == "UNAVAILABLE"  # a new connection is refused by TLS itself
        renewed = RawClient(hub, channel_credentials(long, "north", long))
        renewed.join("north")
        repeated = renewed.receive()
        assert isinstance(repeated, Query)
        assert repeated.id == unanswered.id
        renewed.send(Answer(repeated.id, honest_answer(repeated.request)))
        assert pending.result(SOON)[0].keys() == {"north"}
        for each in (old, late, renewed):
            each.close()
