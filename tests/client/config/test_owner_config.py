"""An owner's file: what it may say, what is refused at once, and what a teacher is made of it."""

import io
import json
import logging
import os
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
import trustme
from pydantic import BaseModel

from fedkd.client.config.owner_config import OwnerConfig, load_owner_config
from fedkd.client.config.private_state_folder import locked
from fedkd.client.config.template import TEMPLATE
from fedkd.client.institution import evaluate_student, owner_institution
from fedkd.client.institution.student_weight_loading import (
    build_student,
    load_weights,
    max_weights_bytes,
    open_student,
)
from fedkd.errors import DataError, SettingsError
from fedkd.process.logs import configure_logging, log_event
from fedkd.protocol import Ask, Reply, Signal
from fedkd.server.report.records.student_export import save_student

BASE: dict[str, Any] = {
    "name": "north",
    "teacher": {"model": "sklearn:LogisticRegression"},
    "data": {"source": "digits", "count": 8},
    "policy": {"signals": ["logits"], "samples": 100},
}

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes an owner's file with some tables replaced; None takes one out."""

    def write(**tables: Any) -> Path:
        path = tmp_path / "owner.toml"
        told = {name: table for name, table in {**BASE, **tables}.items() if table is not None}
        path.write_text(tomli_w.dumps(told))
        return path

    return write


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.pem, north.pem and north.key; expired.pem with its key; strange.key of nobody's."""
    folder, ca = tmp_path_factory.mktemp("tls"), trustme.CA()
    past = datetime.now(UTC) - timedelta(days=1)
    ca.cert_pem.write_to_path(str(folder / "ca.pem"))
    for name, end in (("north", None), ("expired", past), ("strange", None)):
        certificate = ca.issue_cert(name, not_after=end)
        certificate.cert_chain_pems[0].write_to_path(str(folder / f"{name}.pem"))
        certificate.private_key_pem.write_to_path(str(folder / f"{name}.key"))
        (folder / f"{name}.key").chmod(0o600)
    return folder


def connection(tls: Path, **changes: Any) -> dict[str, Any]:
    files = {"ca": "ca.pem", "certificate": "north.pem", "key": "north.key"}
    return {name: str(tls / file) for name, file in files.items()} | changes


PRIVATE = "|voters|epsilon|delta|clipping|sampling_rate|accountant|labels|top_k|rounding|noise"
SHRUNK = "|width|images|steps|last_steps|shift|mirrors"

# --- the file


def test_the_example_has_every_key_and_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "owner.toml"
    path.write_text(TEMPLATE)
    owner = load_owner_config(path)
    assert (owner.name, owner.policy.samples, owner.policy.scores) == ("north", 20_000, False)
    # Everything but what is mutually exclusive still reads where it is no comment.
    spoken = re.sub(rf"(?m)^# (?=\w+ = )(?!insecure|partition{PRIVATE}{SHRUNK})", "", TEMPLATE)
    path.write_text(spoken.replace("servers = [", "servers = ['kd.example:9092', "))
    assert load_owner_config(path).policy.hours is not None
    written = set(re.findall(r"(?m)^(?:# )?(\w+) = ", TEMPLATE))
    assert written == set(keys(OwnerConfig)), "a key is missing in the example, or is none"
    brought = dict(re.findall(r"(?m)^#   (\w+) = (.*?)(?: +#.*)?$", TEMPLATE))
    schema = {key: brought.pop(key) for key in ("schema",)} | {"source": brought["source"]}
    tasks = {"tasks": brought.pop("tasks")} | {key: brought[key] for key in ("source", "shape")}
    for table in (brought, tasks, schema):
        lines = "\n".join(f"{key} = {value}" for key, value in table.items())
        path.write_text(f'name = "n"\n[teacher]\n{lines}\n[policy]\nsignals = []\nsamples = 1')
        teacher = load_owner_config(path).teacher
        assert all(getattr(teacher, key) for key in table)
    assert teacher.schema == Path("schema.toml")


def keys(model: type[BaseModel]) -> Iterator[str]:
    """Keys of a table and of those in it."""
    for name, field in model.model_fields.items():
        inner = [t for t in (field.annotation, *getattr(field.annotation, "__args__", ())) if t]
        tables = [t for t in inner if isinstance(t, type) and issubclass(t, BaseModel)]
        if not tables:
            yield name
        for table in tables:
            yield from keys(table)


def test_paths_are_relative_to_the_file(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls = {"ca": "tls/ca.pem", "certificate": "/etc/north.pem", "key": "k"}
    path = write(connection=tls, data={"source": "folder:x", "root": "images"})
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    owner = load_owner_config(Path("..") / path.name)
    assert owner.connection is not None
    assert owner.data is not None
    assert owner.connection.ca == tmp_path / "tls" / "ca.pem"
    assert owner.connection.certificate == Path("/etc/north.pem")
    assert owner.data.root == tmp_path / "images"
    assert owner.state.folder == tmp_path / "state"
    assert owner.state.control_socket == tmp_path / "state" / "agent.sock"


def test_a_policy_is_what_the_institution_obeys(write: Write) -> None:
    said = {
        "signals": ["logits", "bn_gap"],
        "samples": 7,
        "samples_per_hour": 5,
        "hours": ["22:00", "06:30"],
        "servers": ["kd.example:9092"],
        "shape": [1, 8, 8],
        "high": 0.5,
    }
    word = load_owner_config(write(policy=said)).policy.to_policy()
    assert word.signals == {Signal.LOGITS, Signal.BN_GAP}
    assert (word.samples, word.samples_per_hour, word.high) == (7, 5, 0.5)
    assert word.hours is not None
    assert [f"{each:%H:%M}" for each in word.hours] == ["22:00", "06:30"]
    assert (word.servers, word.shape) == ({"kd.example:9092"}, (1, 8, 8))
    assert (word.pull_back, word.class_counts, word.scores) == (False, False, False)


@pytest.mark.parametrize(
    ("tables", "says"),
    [
        ({"policy": None}, "has no [policy], so nothing may be asked"),
        ({"policy": {"signals": ["logits"]}}, "policy.samples is missing"),
        ({"policy": {"samples": 5}}, "policy.signals is missing"),
        ({"policy": {"signals": ["logit"], "samples": 5}}, "policy.signals"),
        ({"policy": {"signals": ["logits"], "samplez": 5}}, "did you mean samples?"),
        ({"policy": {"signals": [], "samples": 5, "servers": ["x"]}}, "expected host:port"),
        ({"polizy": {}}, "did you mean policy?"),
        ({"name": "n" * 65}, "at most 64"),
        ({"data": None}, "write a [data] table"),
        ({"teacher": {"modell": "cnn"}}, "did you mean model?"),
        ({"connection": {"server": "h:1"}}, "needs ca, certificate and key"),
        ({"connection": {"sever": "h:1"}}, "did you mean server?"),
        ({"connection": {"insecure": True, "server": "kd.example:9092"}}, "plain text on kd.ex"),
        ({"connection": {"insecure": True, "ca": "ca.pem"}}, "keep one of them"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    write: Write, tables: dict[str, Any], says: str
) -> None:
    with pytest.raises(SettingsError) as error:
        load_owner_config(write(**tables))
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_plain_text_is_refused_for_servers_that_flower_opens_sessions_with(write: Write) -> None:
    policy = {**BASE["policy"], "servers": ["192.0.2.1:1"]}
    with pytest.raises(SettingsError, match="plain text"):
        load_owner_config(write(policy=policy, connection={"insecure": True}))


def test_a_server_that_the_policy_does_not_name_is_a_mistake(write: Write, tls: Path) -> None:
    policy = {**BASE["policy"], "servers": ["kd.example:1"]}
    with pytest.raises(SettingsError, match=r"not in policy\.servers"):
        load_owner_config(write(policy=policy, connection=connection(tls, server="kd.example:2")))


def test_a_file_that_is_none_is_told_by_name(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot read none\.toml: No such file"):
        load_owner_config(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("name = ")
    with pytest.raises(SettingsError, match=r"cannot read bad\.toml"):
        load_owner_config(tmp_path / "bad.toml")


# --- secrets of the connection


def test_tls_files_are_checked_before_anybody_is_dialled(write: Write, tls: Path) -> None:
    def refused(**files: str) -> str:
        owner = load_owner_config(write(connection=connection(tls, **files)))
        assert owner.connection is not None
        with pytest.raises(SettingsError) as error:
            owner.connection.credentials()
        assert "\n" not in str(error.value)
        return str(error.value)

    whole = load_owner_config(write(connection=connection(tls))).connection
    assert whole is not None
    assert whole.credentials() is not None
    assert "do not fit" in refused(key=str(tls / "strange.key"))
    assert "do not fit" in refused(ca=str(tls / "north.key"))
    expired = {"certificate": str(tls / "expired.pem"), "key": str(tls / "expired.key")}
    assert "expired on" in refused(**expired)
    assert "No such file" in refused(ca=str(tls / "none.pem"))


def test_a_secret_that_others_can_read_is_refused(write: Write, tls: Path, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(" swordfish\n")
    owner = load_owner_config(write(connection=connection(tls, token_file="token")))
    assert owner.connection is not None
    for mode in (0o640, 0o604, 0o620):
        token.chmod(mode)
        with pytest.raises(SettingsError, match="chmod 600") as error:
            owner.connection.token()
        assert "swordfish" not in str(error.value)
    token.chmod(0o600)
    assert owner.connection.token() == "swordfish"
    token.write_text("\n")
    with pytest.raises(SettingsError, match="is empty"):
        owner.connection.token()
    key = tls / "north.key"
    key.chmod(0o644)
    try:
        with pytest.raises(SettingsError, match=r"connection\.key"):
            owner.connection.credentials()
    finally:
        key.chmod(0o600)


# --- what is made of it


def test_an_owners_institution_answers_and_keeps_its_state_to_itself(
    write: Write, tmp_path: Path
) -> None:
    owner = load_owner_config(write(teacher={"model": "mlp", "epochs": 1}))
    seen: list[int] = []
    with locked(owner.state.folder):
        institution = owner_institution(owner, lambda done, of: seen.append(done))
        with pytest.raises(SettingsError, match="another fedkd-client"), locked(owner.state.folder):
            pass
    assert seen == [1]
    assert institution.card.name == "north"
    assert institution.card.samples == 100
    reply = institution.answer(Ask(torch.zeros(3, 1, 8, 8, dtype=torch.uint8)))
    assert isinstance(reply, Reply)
    files = [path for path in (tmp_path / "state").rglob("*") if path.is_file()]
    assert len(files) >= 2
    assert all(path.stat().st_mode & 0o077 == 0 for path in [*files, owner.state.folder])
    owner_institution(owner, lambda done, of: seen.append(done))
    assert seen == [1], "the teacher is found again"


def test_a_state_that_others_can_read_is_refused(write: Write, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o755)
    with pytest.raises(SettingsError, match="chmod 700"):
        owner_institution(load_owner_config(write()))


def test_an_owner_examines_a_student_whatever_his_policy(write: Write, tmp_path: Path) -> None:
    owner, student = load_owner_config(write()), build_student("mlp", 10, (1, 8, 8))
    save_student(student, tmp_path, (1, 8, 8), {"student": "mlp", "classes": "10"})
    right, examples = evaluate_student(owner, tmp_path / "student.safetensors")
    assert examples == 45
    assert 0 <= right <= examples
    assert owner_institution(owner).score(student) is None


def test_a_file_that_is_no_student_is_told_as_such(tmp_path: Path) -> None:
    path = tmp_path / "student.safetensors"
    weights = {"student": "mlp", "classes": "10"}
    student = build_student("mlp", 10, (1, 8, 8))
    save_student(student, tmp_path, (1, 8, 8), weights)
    whole = path.read_bytes()
    for content in (b"", b"\xff" * 9, whole[:-1], b"{}" * 40, os.urandom(4096)):
        path.write_bytes(content)
        with pytest.raises(DataError):
            open_student(path)
    save_student(student, tmp_path, (1, 8, 8))
    with pytest.raises(DataError, match="no student of fedkd's"):
        open_student(path)
    assert len(whole) < max_weights_bytes(student) < 4 * len(whole) + 2**20
    with pytest.raises(DataError, match="not the weights"):
        load_weights(build_student("cnn", 10, (1, 8, 8)), whole)


# --- the log


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield io.StringIO()
    root.handlers[:], root.level = before, level


def test_events_are_json_with_facts_and_no_text_of_exceptions(logged: io.StringIO) -> None:
    configure_logging("json", logged)
    log = logging.getLogger("fedkd.client.test")
    log_event(log, "question", samples=3, refused=None)
    try:
        raise ValueError("patient 4711")
    except ValueError:
        log.exception("it broke")
    logging.getLogger("other").info("chatter")
    first, second = (json.loads(line) for line in logged.getvalue().splitlines())
    assert datetime.fromisoformat(first.pop("time")).utcoffset() == timedelta(0)
    assert first == {"level": "info", "event": "question", "samples": 3}
    assert (second["error"], second["text"]) == ("ValueError", "it broke")
    assert "4711" not in logged.getvalue()


def test_no_fact_forges_a_line_of_text(logged: io.StringIO) -> None:
    configure_logging("text", logged)
    log_event(logging.getLogger("fedkd.server.test"), "over", reason="bye\n2026 info forged\x1b[2J")
    assert logged.getvalue().count("\n") == 1
    assert "\x1b" not in logged.getvalue()
    logging.getLogger("other").warning("two\nlines")
    assert logged.getvalue().count("\n") == 2
    with pytest.raises(SettingsError, match="choose one of text, json"):
        configure_logging("xml", logged)
