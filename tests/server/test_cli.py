"""``fedkd-server`` as people type it: real subprocesses, real agents, mutual TLS."""

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import pytest

from fedkd.client.institution import simulated_institution
from fedkd.client.sessions.agent import Agent, ReconnectPolicy
from fedkd.experiment import parse_experiment
from fedkd.server import cli
from fedkd.server.hub.tls_certificates import make_certificates
from fedkd.wire.grpc_channels import grpc
from tests.support.forked_cli import run_forked
from tests.support.server_process import SOON, running_server

SMALL = ("institutions.count=2", "student.steps=40", "questions.budget=128", "student.model=mlp")
TINY = {"name": "tiny", "institutions": {"count": 2, "models": ["mlp"], "epochs": 2}}
QUICK = ReconnectPolicy(initial_pause=0.05, max_pause=0.2, give_up_after=SOON)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls") / "tls"
    make_certificates(folder, ["institution-0", "institution-1"])
    return folder


def agents(address: str, tokens: dict[str, str], tls: Path | None) -> list[threading.Thread]:
    """Both institutions of the experiment, each dialling in a thread of its own."""
    threads = []
    for index, (name, token) in enumerate(sorted(tokens.items())):
        institution = simulated_institution(parse_experiment(TINY), index, None)
        credentials = None
        if tls is not None:
            files = ("ca.pem", f"{name}.key", f"{name}.pem")
            read = [(tls / file).read_bytes() for file in files]
            credentials = grpc.ssl_channel_credentials(*read)
        agent = Agent(address, token, institution.card, institution.answer, credentials, QUICK)
        threads.append(threading.Thread(target=agent.serve, daemon=True))
        threads[-1].start()
    return threads


def overrides(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def test_a_run_over_mutual_tls_with_join_tokens_leaves_its_report(
    tls: Path, tmp_path: Path
) -> None:
    names = ("institution-0", "institution-1")
    issued = run_forked(["fedkd-server", "token", *names, "--tokens", "tokens"], tmp_path)
    assert issued.returncode == 0, issued.stderr
    tokens = dict(line.split() for line in issued.stdout.splitlines())
    assert tokens.keys() == set(names)
    words = ["run", "digits", "--tls", str(tls), "--address", "127.0.0.1:0", "--seed", "5"]
    words += ["--tokens", "tokens", "--out", "run", "--log", "json", "--metrics", "0"]
    with running_server(tmp_path, *words, *overrides(*SMALL)) as command:
        address = command.wait_for_line(r"2 institutions may dial (\S+)")
        metrics = command.wait_for_line(r"metrics at (\S+)")
        with urllib.request.urlopen(metrics, timeout=SOON) as page:
            assert "fedkd_institutions_present 0.0" in page.read().decode()
        threads = agents(address, tokens, tls)
        assert command.end() == 0, command.errors
        for thread in threads:
            thread.join(SOON)
            assert not thread.is_alive()
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["engine"], result["seed"], result["student_steps"]) == ("hub", 5, 40)
    assert result["student"]["accuracy"] is None
    assert [t["name"] for t in result["teachers"]] == list(names)
    assert all(t["samples_asked"] == 128 and t["bytes_received"] for t in result["teachers"])
    assert "not known" in (tmp_path / "run" / "report.html").read_text().lower()
    events = [json.loads(line) for line in command.errors if line.startswith("{")]
    assert {"waiting", "connected", "trained"} <= {event["event"] for event in events}
    assert not any(token in line for token in tokens.values() for line in command.errors)


def test_a_signal_ends_a_run_in_plain_text_and_institutions_hear_of_it(tmp_path: Path) -> None:
    with running_server(tmp_path, "run", "digits", "--insecure") as command:
        token = command.wait_for_line(r"the token of this run is (\S+)")
        address = command.wait_for_line(r"5 institutions may dial (127\.0\.0\.1:\d+)")
        thread, stranger = agents(
            address, {"institution-0": token, "institution-1": "not the token"}, None
        )
        stranger.join(SOON)
        assert not stranger.is_alive()
        assert command.wait_for_line(r"connected +name=\"(\S+)\"") == "institution-0"
        command.process.send_signal(signal.SIGTERM)
        assert command.end() == 130
        assert command.errors[-1] == "fedkd-server: interrupted"
        thread.join(SOON)
        assert not thread.is_alive()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("run", "digits"), "give either --tls DIR, or --insecure"),
        (("run", "digits", "--insecure", "--tls", "."), "give either --tls DIR, or --insecure"),
        (("run", "digits", "--insecure", "--address", "0.0.0.0:0"), "plain text on 0.0.0.0:0"),
        (("run", "digits", "--insecure", "--address", "here"), "expected host:port"),
        (("run", "digits", "--insecure", "--log", "json"), "give --tokens FILE"),
        (("run", "digits", "--insecure", "--log", "yaml"), "choose one of text, json"),
        (("run", "digits", "--tls", "nowhere"), "cannot read nowhere/ca.pem"),
        (("run", "digitz", "--insecure"), "did you mean digits?"),
        (("run", "digits", "--insecure", "--wait", "0.2"), "institutions came within 0.2 s"),
        (("run", "digits", "--insecure", "--institutions", "0"), "see --help"),
        (("run", "digits", "--insecure", "--set", "student.stepz=3"), "did you mean steps?"),
        (("run", "digits", "--insecure", "--set", "student.model=cnm"), "did you mean cnn?"),
        (("run", "digits", "--insecure", "--set", "questions.rule=means"), "unknown rule 'means'"),
        (("run", "digits", "--insecure", "--tokens", "none/tokens"), "tokens"),
        (("run", "digits-hidfd", "--insecure", "--set", "images.public=no"), "no collected images"),
        (
            (
                *("run", "digits", "--insecure", "--set", "expect.classes=10"),
                *("--set", "expect.shape=[1,4,4]", "--set", "student.model=lenet5"),
            ),
            "lenet5",
        ),
        (("token", "north"), "see --help"),
        (("certificates", "tls", "--institution", "a/b"), "cannot be called 'a/b'"),
        (("certificates", "tls", "--institution", "a", "--days", "0"), "expected 1 or more"),
        (("certificates", ".", "--institution", "there"), "is there already"),
    ],
)
def test_a_mistake_is_one_line_and_status_two(
    words: tuple[str, ...],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    (tmp_path / "there.key").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["fedkd-server", *words])
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as ended:
            cli.main()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended.value.code == 2
    errors = capsys.readouterr().err.splitlines()
    mistakes = [e for e in errors if not re.search("may dial|the token of|waiting", e)]
    assert len(mistakes) == 1, errors
    assert mistakes[0].startswith("fedkd-server: ")
    assert says in mistakes[0]
    assert [path.name for path in tmp_path.iterdir()] == ["there.key"], "no empty folder stays"


def test_an_address_in_use_leaves_no_folder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        words = ["run", "digits", "--insecure", "--address", address]
        monkeypatch.setattr(sys, "argv", ["fedkd-server", *words])
        before = signal.getsignal(signal.SIGTERM)
        try:
            with pytest.raises(SystemExit) as ended:
                cli.main()
        finally:
            signal.signal(signal.SIGTERM, before)
    assert ended.value.code == 2
    assert address in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_certificates_say_that_they_are_for_development(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["certificates", str(tmp_path / "tls"), "--institution", "north", "--host", "10.0.0.5"]
    monkeypatch.setattr(sys, "argv", ["fedkd-server", *words])
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    signal.signal(signal.SIGTERM, before)
    assert not ended.value.code
    told = capsys.readouterr()
    made = [Path(line) for line in told.out.splitlines()]
    assert sorted(p.name for p in made) == [
        *("ca.key", "ca.pem", "north.key", "north.pem", "server.key", "server.pem")
    ]
    assert stat.S_IMODE(made[0].parent.stat().st_mode) == 0o700
    assert "For development" in told.err
    assert "In production" in told.err


def test_help_does_not_wait_for_torch() -> None:
    code = (
        "import sys; sys.argv = ['fedkd-server', '--help']\n"
        "from fedkd.server.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "for slow in ('torch', 'grpc', 'flwr', 'cryptography'):\n"
        "    assert slow not in sys.modules, slow\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=SOON,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "certificates" in done.stdout
