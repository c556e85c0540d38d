"""Who may come in, over real TLS: a stranger does nobody any harm but himself."""

import datetime
import resource
import stat
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import trustme
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedkd.client.sessions.agent import Agent
from fedkd.errors import DataError, SettingsError
from fedkd.process.logs import facts_of
from fedkd.protocol import Ask
from fedkd.server.hub import admission
from fedkd.server.hub.admission import (
    EXPIRED_TOKEN,
    UNKNOWN_TOKEN,
    USED_TOKEN,
    JoinTokens,
    RunToken,
    persistent_run_token,
)
from fedkd.server.hub.hub import Hub
from fedkd.wire import VERSION, Hello
from fedkd.wire.grpc_channels import grpc
from tests.support.hub_clients import (
    IMAGES,
    QUICK,
    SOON,
    TOKEN,
    RawClient,
    TcpRelay,
    card,
    hello,
    honest_answer,
    names,
    wait_until,
)

OURS, THEIRS = b"a certificate", b"another"
BLINK = 0.05
"""Hours are long: seconds of a token that expires at once."""


@pytest.fixture
def tokens(tmp_path: Path) -> JoinTokens:
    return JoinTokens(tmp_path / "tokens")


# --- the secret of a run


def test_a_run_token_lets_in_whoever_knows_it() -> None:
    door = RunToken(TOKEN)
    assert door.admit(TOKEN, "north", None) is None
    assert door.admit(TOKEN, "south", OURS) is None
    for wrong in ("", TOKEN + " ", TOKEN[:-1], "ü"):
        assert door.admit(wrong, "north", None) == UNKNOWN_TOKEN
    with pytest.raises(SettingsError, match="empty token"):
        RunToken("")


def test_the_token_of_a_run_is_drawn_once_and_is_its_owners(tmp_path: Path) -> None:
    file = tmp_path / "token"
    token = persistent_run_token(file)
    assert len(token) > 30
    assert persistent_run_token(file) == token
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [file]


def test_a_full_disk_leaves_no_token_and_the_run_may_go_on_later(tmp_path: Path) -> None:
    file = tmp_path / "token"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with pytest.raises(DataError, match="cannot keep the run's token"):
            persistent_run_token(file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []
    file.touch()  # as an earlier release left it
    token = persistent_run_token(file)
    assert token == persistent_run_token(file) != ""
    assert RunToken(token).admit(token, "north", None) is None


# --- tokens for one


def test_a_token_belongs_to_the_certificate_that_used_it_first(tokens: JoinTokens) -> None:
    token = tokens.issue("north")
    assert tokens.admit(token, "north", OURS) is None
    assert tokens.admit(token, "north", OURS) is None
    assert tokens.admit(token, "north", THEIRS) == USED_TOKEN
    assert tokens.admit(token, "north", None) == USED_TOKEN
    assert tokens.admit(token, "north", OURS) is None


def test_without_certificates_a_token_belongs_to_its_name(tokens: JoinTokens) -> None:
    token = tokens.issue("north")
    assert tokens.admit(token, "north", None) is None
    assert tokens.admit(token, "north", None) is None
    assert tokens.admit(token, "north", OURS) == USED_TOKEN


def test_a_wrong_token_and_a_wrong_name_are_refused_alike(tokens: JoinTokens) -> None:
    north, south = tokens.issue("north"), tokens.issue("south")
    assert tokens.admit(south, "north", OURS) == UNKNOWN_TOKEN
    assert tokens.admit(north, "nobody", OURS) == UNKNOWN_TOKEN
    assert tokens.admit("", "nobody", OURS) == UNKNOWN_TOKEN
    assert tokens.admit("guess", "north", OURS) == UNKNOWN_TOKEN
    assert tokens.admit(north, "north", OURS) is None  # no guess used it up
    assert tokens.admit("guess", "north", OURS) == UNKNOWN_TOKEN


def test_a_token_expires_unless_it_was_used(
    tokens: JoinTokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    used, idle, long = tokens.issue("used", 1), tokens.issue("idle", 1), tokens.issue("long", 3)
    assert tokens.admit(used, "used", OURS) is None
    later = SimpleNamespace(time=lambda: time.time() + 2 * 3600)
    monkeypatch.setattr(admission, "time", later)
    assert tokens.admit(idle, "idle", OURS) == EXPIRED_TOKEN
    assert tokens.admit("guess", "idle", OURS) == UNKNOWN_TOKEN
    assert tokens.admit(used, "used", OURS) is None
    assert tokens.admit(used, "used", THEIRS) == USED_TOKEN
    assert tokens.admit(long, "long", OURS) is None


def test_a_new_token_takes_the_place_of_the_old(tokens: JoinTokens) -> None:
    old = tokens.issue("north")
    assert tokens.admit(old, "north", OURS) is None
    new = tokens.issue("north")
    assert tokens.admit(old, "north", OURS) == UNKNOWN_TOKEN
    assert tokens.admit(new, "north", THEIRS) is None


def test_the_file_is_its_owners_and_holds_no_token(tokens: JoinTokens, tmp_path: Path) -> None:
    token = tokens.issue("north")
    path = tmp_path / "tokens"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert token.encode() not in b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert JoinTokens(path).admit(token, "north", OURS) is None
    path.chmod(0o640)
    with pytest.raises(SettingsError, match="others can read"):
        JoinTokens(path)


def test_a_file_that_is_none_of_ours_is_named(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("certainly no tokens " * 100)
    other.chmod(0o600)
    for path in (other, tmp_path / "missing" / "tokens"):
        with pytest.raises(DataError, match=path.name):
            JoinTokens(path)


@pytest.mark.parametrize(("name", "hours"), [("", 1), ("x" * 65, 1), ("a\nb", 1), ("a", 0)])
def test_no_token_is_issued_for_nobody(tokens: JoinTokens, name: str, hours: float) -> None:
    with pytest.raises(SettingsError):
        tokens.issue(name, hours)


def test_of_many_who_come_at_once_with_a_token_one_comes_in(tmp_path: Path) -> None:
    path, count, times = tmp_path / "tokens", 6, 20
    given_out = [JoinTokens(path).issue(str(number)) for number in range(times)]
    barrier = threading.Barrier(count)

    def come(who: int) -> list[str | None]:
        own = JoinTokens(path)  # a connection of its own, as another process would have
        said = []
        for number, token in enumerate(given_out):
            barrier.wait(SOON)
            said.append(own.admit(token, str(number), bytes([who])))
        return said

    with ThreadPoolExecutor(count) as pool:
        for said in zip(*pool.map(come, range(count)), strict=True):
            assert sorted(said, key=str) == [None] + [USED_TOKEN] * (count - 1)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(token=st.text(), name=st.text(), certificate=st.none() | st.binary())
def test_whatever_a_stranger_says_he_is_refused(
    tokens: JoinTokens, token: str, name: str, certificate: bytes | None
) -> None:
    tokens.issue("north")
    assert tokens.admit(token, name, certificate) == UNKNOWN_TOKEN
    assert RunToken(TOKEN).admit(token, name, certificate) == UNKNOWN_TOKEN


# --- over TLS

Dial = Callable[..., grpc.ChannelCredentials]


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def secure(ca: trustme.CA, tokens: JoinTokens) -> Iterator[Hub]:
    here = ca.issue_cert("127.0.0.1")
    pair = here.private_key_pem.bytes(), here.cert_chain_pems[0].bytes()
    server = grpc.ssl_server_credentials([pair], ca.cert_pem.bytes(), True)
    with Hub(tokens, credentials=server) as hub:
        yield hub


def client(ca: trustme.CA, own: trustme.LeafCert | None) -> grpc.ChannelCredentials:
    pem = ca.cert_pem.bytes()
    if own is None:
        return grpc.ssl_channel_credentials(pem)
    return grpc.ssl_channel_credentials(
        pem, own.private_key_pem.bytes(), own.cert_chain_pems[0].bytes()
    )


def said_to(
    hub: Hub, credentials: grpc.ChannelCredentials | None, name: str, token: str
) -> tuple[str, str]:
    """How the hub ends the stream of a stranger."""
    raw = RawClient(hub, credentials)
    raw.send(Hello(VERSION, token, card(name)))
    try:
        return raw.status()
    finally:
        raw.close()


def test_a_token_can_be_used_again_by_its_certificate_alone(
    secure: Hub, ca: trustme.CA, tokens: JoinTokens, caplog: pytest.LogCaptureFixture
) -> None:
    token, own = tokens.issue("north"), client(ca, ca.issue_cert("north"))
    thief, other = client(ca, ca.issue_cert("north")), client(ca, ca.issue_cert("south"))
    assert said_to(secure, other, "north", token)[0] == "PERMISSION_DENIED"  # and is not used up
    relay = TcpRelay()
    relay.to(secure.address)
    agent = Agent(relay.address, token, card("north"), honest_answer, own, QUICK)
    thread = threading.Thread(target=agent.serve)
    thread.start()
    secure.wait_for(1, SOON)
    assert said_to(secure, thief, "north", token) == ("UNAUTHENTICATED", USED_TOKEN)
    assert said_to(secure, other, "south", token) == ("UNAUTHENTICATED", UNKNOWN_TOKEN)
    for _ in range(2):
        assert secure.ask({"north": Ask(IMAGES)}, SOON)[0].keys() == {"north"}
        relay.cut()
        wait_until(lambda: secure.counters["north"].end_reason != "")
        secure.wait_for(1, SOON)
    agent.close()
    thread.join(SOON)
    wait_until(lambda: not secure.cards)
    assert said_to(secure, thief, "north", token) == ("UNAUTHENTICATED", USED_TOKEN)
    relay.close()
    told = [facts_of(record) or {} for record in caplog.records if record.msg == "refused"]
    assert {"name": "north", "reason": USED_TOKEN} in told, "the coordinator hears of it too"
    assert token not in caplog.text


def test_an_expired_token_says_so_to_its_owner(
    secure: Hub, ca: trustme.CA, tokens: JoinTokens
) -> None:
    token, own = tokens.issue("north", BLINK / 3600), client(ca, ca.issue_cert("north"))
    time.sleep(BLINK)
    assert said_to(secure, own, "north", token) == ("UNAUTHENTICATED", EXPIRED_TOKEN)
    served = Agent(
        secure.address, token, card("north"), honest_answer, own
    ).serve()  # returns: final
    assert served == EXPIRED_TOKEN


def test_whom_tls_does_not_know_is_not_heard(
    secure: Hub, ca: trustme.CA, tokens: JoinTokens
) -> None:
    token = tokens.issue("north")
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    forged, stale = trustme.CA().issue_cert("north"), ca.issue_cert("north", not_after=past)
    strangers = {
        "another CA's certificate": client(ca, forged),
        "no certificate": client(ca, None),
        "an expired certificate": client(ca, stale),
        "another CA asked of the hub": client(trustme.CA(), ca.issue_cert("north")),
        "plain text": None,
    }
    for words, credentials in strangers.items():
        assert said_to(secure, credentials, "north", token)[0] == "UNAVAILABLE", words
    assert secure.counters == {}
    # Nothing of this used the token up.
    raw = RawClient(secure, client(ca, ca.issue_cert("north")))
    raw.join("north", token)
    assert names(secure) == {"north"}
    raw.close()


def test_tls_to_a_hub_of_plain_text_is_not_heard(hub: Hub, ca: trustme.CA) -> None:
    own = client(ca, ca.issue_cert("north"))
    assert said_to(hub, own, "north", TOKEN)[0] == "UNAVAILABLE"
    raw = RawClient(hub)
    raw.join("south")
    assert names(hub) == {"south"}
    raw.close()


# --- what a stranger cannot do


def test_a_stranger_cannot_get_a_name_banned_that_he_claims(hub: Hub) -> None:
    for words in (hello(token="guess"), b"garbage", hello(version=VERSION + 1)):
        raw = RawClient(hub)
        raw.send(words, b"garbage", b"more of it")
        raw.status()
        raw.close()
    inside = RawClient(hub)
    inside.join("north")
    outside = RawClient(hub)
    outside.send(hello(), b"garbage", b"more of it")
    assert outside.status()[0] == "ALREADY_EXISTS"
    outside.close()
    assert names(hub) == {"north"}
    assert hub.counters["north"].protocol_violations == 0
    inside.close()


class Broken:
    def admit(self, token: str, name: str, certificate: bytes | None) -> str | None:
        raise DataError("the disk under /secret/place is full")


def test_where_tokens_cannot_be_checked_nobody_comes_in(caplog: pytest.LogCaptureFixture) -> None:
    with Hub(Broken()) as hub:
        code, words = said_to(hub, None, "north", TOKEN)
        assert code == "UNAVAILABLE"  # which an agent takes for a pause, not for the end
        assert "secret" not in words
        assert "/secret/place" in caplog.text
        assert hub.cards == ()
