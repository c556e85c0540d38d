"""An institution's agent stops when the institution's own certificate ends, and says so."""

import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fedkd.client.config.connection import ConnectionTable
from fedkd.client.sessions import certificate_expiry
from fedkd.client.sessions.agent import Agent, StopReason
from fedkd.client.sessions.certificate_expiry import calling_at
from fedkd.errors import SettingsError
from fedkd.protocol import Ask
from fedkd.server.hub.hub import Hub
from fedkd.server.hub.tls_certificates import make_certificates, server_credentials
from tests.support.hub_clients import IMAGES, QUICK, SOON, TOKEN, card, honest_answer
from tests.support.short_certificates import channel_credentials, expiring_certificates

LIFETIME = 3.0
"""Seconds in which a session is opened and a question answered."""


def test_an_agent_stops_with_its_own_certificate(tmp_path: Path) -> None:
    """The hub's own check is not what stops it: to the hub this certificate is valid for long."""
    make_certificates(tmp_path / "tls", ["north"])
    end = datetime.now(UTC) + timedelta(seconds=LIFETIME)
    with Hub(TOKEN, "127.0.0.1:0", server_credentials(tmp_path / "tls")) as hub:
        shown = channel_credentials(tmp_path / "tls", "north", tmp_path / "tls")
        agent = Agent(hub.address, TOKEN, card("north"), honest_answer, shown, QUICK, expiry=end)
        said: list[str] = []
        thread = threading.Thread(target=lambda: said.append(agent.serve()))
        thread.start()
        hub.wait_for(1, SOON)
        assert hub.ask({"north": Ask(IMAGES)}, SOON)[0].keys() == {"north"}
        thread.join(SOON)
        assert not thread.is_alive()
        assert datetime.now(UTC) > end
        assert said == [
            f"our own certificate expired on {end:%Y-%m-%d %H:%M:%S} UTC; "
            "renew it, and start the agent again"
        ]
        assert agent.stop_reason is StopReason.REFUSED
        assert hub.counters["north"].end_reason == (
            "it left: the institution's certificate has expired"
        )


def test_an_agent_that_is_closed_before_waits_for_no_certificate() -> None:
    far = datetime.now(UTC) + timedelta(days=1)
    began = time.monotonic()
    with calling_at(far, lambda: pytest.fail("it has not expired")):
        pass
    assert time.monotonic() - began < SOON


def test_a_clock_that_is_set_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait is no single sleep of days: a suspended machine's timers stand still."""
    monkeypatch.setattr(certificate_expiry, "RECHECK_SECONDS", 0.05)
    called, end = threading.Event(), datetime.now(UTC) + timedelta(days=1)

    class Later(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return end + timedelta(seconds=1)

    with calling_at(end, called.set):
        assert not called.wait(0.2)
        monkeypatch.setattr(certificate_expiry, "datetime", Later)
        assert called.wait(SOON)


def test_the_owners_file_tells_when_its_certificate_ends(tmp_path: Path) -> None:
    end = expiring_certificates(tmp_path / "tls", "north", 60.0)
    files = {"ca": "ca.pem", "certificate": "north.pem", "key": "north.key"}
    table = ConnectionTable(**{key: tmp_path / "tls" / name for key, name in files.items()})
    assert table.expiry() == end
    assert ConnectionTable(insecure=True).expiry() is None
    (tmp_path / "tls" / "north.pem").write_text("nothing")
    with pytest.raises(SettingsError, match="is no certificate in PEM; make it anew"):
        table.expiry()
