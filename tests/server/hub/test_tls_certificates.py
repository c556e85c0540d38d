"""Real certificates at a real hub: whoever is certified comes in under that name, nobody else."""

import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

from fedkd.client.sessions.agent import Agent, ReconnectPolicy
from fedkd.errors import SettingsError
from fedkd.protocol import Ask, Card, PullBack, Reply, Signal
from fedkd.server.hub.hub import Hub
from fedkd.server.hub.tls_certificates import make_certificates, server_credentials
from fedkd.wire.grpc_channels import grpc

TOKEN = "let-me-in"
SOON = 15.0
QUICK = ReconnectPolicy(initial_pause=0.02, max_pause=0.05, give_up_after=0.3)
IMAGES = torch.zeros(2, 1, 2, 2, dtype=torch.uint8)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates") / "tls"
    make_certificates(folder, ["north", "south"], ["hub.example.org"], flower=True)
    return folder


def certified(folder: Path, name: str, ca: Path | None = None) -> grpc.ChannelCredentials:
    """What an institution of this folder shows."""
    files = ((ca or folder) / "ca.pem", folder / f"{name}.key", folder / f"{name}.pem")
    return grpc.ssl_channel_credentials(*(path.read_bytes() for path in files))


def agent(hub: Hub, name: str, credentials: grpc.ChannelCredentials) -> Agent:
    def answer(request: Ask | PullBack) -> Reply:
        return Reply({Signal.LOGITS: torch.zeros(len(request.images), 3, dtype=torch.float16)})

    card = Card(name, 3, (1, 2, 2), frozenset({Signal.LOGITS}))
    return Agent(hub.address, TOKEN, card, answer, credentials, QUICK)


def ending(agent: Agent) -> str:
    """Why an agent that should not come in stopped; one that came in would stay."""
    said: list[str] = []
    thread = threading.Thread(target=lambda: said.append(agent.serve()), daemon=True)
    thread.start()
    thread.join(SOON)
    agent.close()
    assert said, "it was let in"
    return said[0]


def test_an_institution_with_its_certificate_comes_in_and_is_asked(tls: Path) -> None:
    with Hub(TOKEN, "127.0.0.1:0", server_credentials(tls)) as hub:
        north = agent(hub, "north", certified(tls, "north"))
        thread = threading.Thread(target=north.serve)
        thread.start()
        hub.wait_for(1, SOON)
        answers, _ = hub.ask({"north": Ask(IMAGES)}, SOON)
        assert answers.keys() == {"north"}
    thread.join(SOON)
    assert not thread.is_alive()


def test_a_certificate_speaks_for_one_name_alone(tls: Path) -> None:
    with Hub(TOKEN, "127.0.0.1:0", server_credentials(tls)) as hub:
        said = ending(agent(hub, "south", certified(tls, "north")))
        assert said == "the certificate does not speak for 'south'"
        assert hub.cards == ()


def test_another_authoritys_certificate_is_refused(tls: Path, tmp_path: Path) -> None:
    make_certificates(tmp_path / "other", ["north"])
    with Hub(TOKEN, "127.0.0.1:0", server_credentials(tls)) as hub:
        stranger = certified(tmp_path / "other", "north", ca=tls)
        assert "the coordinator is gone" in ending(agent(hub, "north", stranger))
        assert hub.cards == ()


def test_an_institution_refuses_another_authoritys_hub(tls: Path, tmp_path: Path) -> None:
    make_certificates(tmp_path / "other", ["north"])
    with Hub(TOKEN, "127.0.0.1:0", server_credentials(tmp_path / "other")) as hub:
        said = ending(agent(hub, "north", certified(tls, "north")))
        assert "no certificate of this coordinator's authority" in said
        assert hub.cards == ()


def test_whoever_shows_no_certificate_is_refused(tls: Path) -> None:
    with Hub(TOKEN, "127.0.0.1:0", server_credentials(tls)) as hub:
        bare = grpc.ssl_channel_credentials((tls / "ca.pem").read_bytes())
        assert "the coordinator is gone" in ending(agent(hub, "north", bare))
        assert hub.cards == ()


def test_an_expired_institution_is_refused_and_an_expired_hub_does_not_start(
    tls: Path, tmp_path: Path
) -> None:
    past = datetime.now(UTC) - timedelta(days=40)
    make_certificates(tmp_path / "old", ["north"], start=past)
    with pytest.raises(SettingsError, match=r"ca\.pem expired on .* UTC; make it anew"):
        server_credentials(tmp_path / "old")
    # A hub that trusts the old authority as well as its own: only the dates are wrong.
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    old = (tmp_path / "old" / "ca.pem").read_bytes()
    (mixed / "ca.pem").write_bytes((tls / "ca.pem").read_bytes() + old)
    for name in ("server.pem", "server.key"):
        (mixed / name).write_bytes((tls / name).read_bytes())
    with Hub(TOKEN, "127.0.0.1:0", server_credentials(mixed)) as hub:
        late = certified(tmp_path / "old", "north", ca=tls)
        assert "the coordinator is gone" in ending(agent(hub, "north", late))
        assert hub.cards == ()


def test_what_ends_soon_is_warned_of(
    tls: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server_credentials(tls)
    assert caplog.messages == []
    make_certificates(tmp_path / "short", [], days=13)
    server_credentials(tmp_path / "short")
    assert len(caplog.messages) == 2
    assert "expires on" in caplog.messages[1]


def test_what_is_not_yet_valid_is_refused(tmp_path: Path) -> None:
    make_certificates(tmp_path / "tls", [], start=datetime.now(UTC) + timedelta(days=1))
    with pytest.raises(SettingsError, match="holds only from"):
        server_credentials(tmp_path / "tls")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("server.pem", None, r"cannot read .*server\.pem"),
        ("server.pem", b"nothing", r"server\.pem is no certificate in PEM"),
        ("server.key", b"nothing", r"server\.key is no private key"),
        ("server.key", "north.key", r"server\.key is not the key of server\.pem"),
        ("ca.pem", b"", r"ca\.pem is no certificate"),
    ],
)
def test_files_that_do_not_fit_are_named(
    name: str, content: bytes | str | None, says: str, tls: Path, tmp_path: Path
) -> None:
    for file in ("ca.pem", "server.pem", "server.key"):
        (tmp_path / file).write_bytes((tls / file).read_bytes())
    (tmp_path / name).unlink()
    if content is not None:
        data = (tls / content).read_bytes() if isinstance(content, str) else content
        (tmp_path / name).write_bytes(data)
    with pytest.raises(SettingsError, match=says) as raised:
        server_credentials(tmp_path)
    assert "\n" not in str(raised.value)


def test_keys_are_their_owners_and_nothing_is_overwritten(tls: Path, tmp_path: Path) -> None:
    secret = {path.name for path in tls.iterdir() if path.suffix not in (".pem", ".pub")}
    assert secret == {
        *("ca.key", "server.key", "north.key", "south.key", "north.node", "south.node")
    }
    for name in secret:
        assert stat.S_IMODE((tls / name).stat().st_mode) == 0o600
    (tmp_path / "south.key").write_text("mine")
    with pytest.raises(SettingsError, match=r"south\.key is there already"):
        make_certificates(tmp_path, ["north", "south"])
    assert [path.name for path in tmp_path.iterdir()] == ["south.key"]


def test_flower_reads_the_keys_of_supernodes(tls: Path) -> None:
    private = load_ssh_private_key((tls / "north.node").read_bytes(), None)
    public = load_ssh_public_key((tls / "north.node.pub").read_bytes())
    assert private.public_key() == public
    assert public.curve.name == "secp384r1"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "name", ["", "a/b", "../north", "a b", "server", "CA", "é", "-a", "a" * 64]
)
def test_a_name_that_cannot_be_certified_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be called"):
        make_certificates(tmp_path / "tls", [name])
    with pytest.raises(SettingsError, match="two institutions"):
        make_certificates(tmp_path / "tls", ["north", "North"])
    with pytest.raises(SettingsError, match="and no port"):
        make_certificates(tmp_path / "tls", ["north"], ["hub:9092"])
    assert not (tmp_path / "tls").exists()
