"""Institutions with tables over real gRPC: three kinds of teachers, a kill, owners' commands."""

import json
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tomli_w
import xgboost
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, Int64TensorType, StringTensorType
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from skops.io import dump

from fedkd.client.cli import main
from fedkd.client.ledger.ledger import Ledger
from fedkd.server.hub.tls_certificates import make_certificates
from fedkd.simulations.rehearsal.free_ports import free_ports
from tests.support.forked_cli import ForkedCommand, run_forked
from tests.support.hospital_table import COLUMNS, NAMES, OUTCOME, STAY, patients
from tests.support.server_process import SOON, ServerProcess, running_server

HOSPITALS = ("north", "south", "west")
BUDGET = 1600
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def pipeline() -> Any:
    parts = [
        ("levels", OneHotEncoder(), ["ward", "grade"]),
        ("numbers", StandardScaler(), ["age", "fever"]),
    ]
    return make_pipeline(ColumnTransformer(parts), Ridge())


def save_teachers(folder: Path) -> dict[str, dict[str, Any]]:
    """A pipeline, boosted trees with categories and an ONNX file; returns the [teacher] tables."""
    tables = [patients(300, seed) for seed in range(3)]
    frames = [table[[*NAMES]] for table in tables]
    dump(pipeline().fit(frames[0], tables[0]["stay"]), folder / "north.skops")
    trees = xgboost.XGBRegressor(n_estimators=80, max_depth=4, enable_categorical=True)
    trees.fit(frames[1].assign(ward=frames[1]["ward"].astype("category")), tables[1]["stay"])
    trees.save_model(folder / "south.json")
    last = pipeline().fit(frames[2].astype({"age": np.float32}), tables[2]["stay"])
    types = [
        ("age", FloatTensorType([None, 1])),
        ("ward", StringTensorType([None, 1])),
        ("grade", Int64TensorType([None, 1])),
        ("fever", FloatTensorType([None, 1])),
    ]
    onnx.save(to_onnx(last, initial_types=types), folder / "west.onnx")
    sources = ("skops:../north.skops", "xgboost:../south.json", "onnx:../west.onnx")
    return {
        name: {"source": source, "schema": "../schema.toml"}
        for name, source in zip(HOSPITALS, sources, strict=True)
    }


class Site:
    """Folders of three owners, certificates, tokens, and the coordinator's experiment."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.address = folder, f"127.0.0.1:{free_ports(1)[0]}"
        (folder / "schema.toml").write_text(COLUMNS + STAY)
        patients(200, 9).to_csv(folder / "own.csv", index=False)
        make_certificates(folder / "tls", list(HOSPITALS), [])
        for name, teacher in save_teachers(folder).items():
            (folder / name).mkdir(mode=0o700)
            self.write(name, teacher)
        student = {"model": "table-mlp-small", "steps": 800, "learning_rate": 1e-2}
        questions = {"budget": BUDGET, "batch": 40}
        text = tomli_w.dumps({"student": student, "questions": questions})
        (folder / "stay.toml").write_text(text)

    def write(self, name: str, teacher: dict[str, Any]) -> None:
        tls = self.folder / "tls"
        connection = {
            "server": self.address,
            "ca": str(tls / "ca.pem"),
            "certificate": str(tls / f"{name}.pem"),
            "key": str(tls / f"{name}.key"),
            "token_file": "token",
        }
        tables = {
            "name": name,
            "teacher": teacher,
            "data": {"source": "table:../own.csv"},
            "policy": {"signals": ["logits"], "samples": BUDGET},
            "connection": connection,
        }
        tables["data"] |= {"root": str(self.folder / name)}
        (self.folder / name / "owner.toml").write_text(tomli_w.dumps(tables))

    def tokens(self) -> str:
        """Issue new tokens; returns the name of their file."""
        listing = self.folder / "tokens"
        listing.unlink(missing_ok=True)
        command = ["fedkd-server", "token", *HOSPITALS, "--tokens", str(listing)]
        issued = run_forked(command, self.folder)
        assert issued.returncode == 0, issued.stderr
        for line in issued.stdout.splitlines():
            name, token = line.split()
            path = self.folder / name / "token"
            path.touch(mode=0o600)
            path.write_text(token)
        return "tokens"

    def server(self, *words: str) -> list[str]:
        """Words of `fedkd-server` after ``run``."""
        tls = ["--tls", "tls", "--address", self.address, "--tokens", "tokens"]
        return ["run", *words, *tls, "--institutions", "3", "--log", "json"]

    def spent(self) -> dict[str, int]:
        """Samples charged to each ledger."""
        found = {}
        for name in HOSPITALS:
            ledger = Ledger.anchored(self.folder / name / "state" / "ledger.sqlite")
            found[name] = ledger.totals.samples
            ledger.close()
        return found


@contextmanager
def serving(site: Site) -> Iterator[Sequence[ForkedCommand]]:
    """`fedkd-client serve` of each owner, in processes of their own."""
    processes = []
    for name in HOSPITALS:
        owner = site.folder / name
        words = ["fedkd-client", "serve", str(owner / "owner.toml")]
        processes.append(ForkedCommand(words, owner, owner / "output", owner / "log"))
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def finished(site: Site, command: ServerProcess, clients: Sequence[ForkedCommand]) -> None:
    def logs() -> list[str]:
        return [(site.folder / name / "log").read_text()[-600:] for name in HOSPITALS]

    assert command.end() == 0, (command.errors[-5:], logs())
    assert [client.wait(SOON) for client in clients] == [0, 0, 0], logs()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """After a run that nobody disturbed."""
    site = Site(tmp_path_factory.mktemp("site"))
    site.tokens()
    words = site.server("stay.toml", "--out", "whole")
    with serving(site) as clients, running_server(site.folder, *words) as command:
        finished(site, command, clients)
    return site


def result(site: Site, run: str) -> Any:
    return json.loads((site.folder / run / "result.json").read_text())


def typed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object
) -> tuple[int, str]:
    """Exit status of a client's command, and all that it wrote."""
    monkeypatch.setattr(sys, "argv", ["fedkd-client", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        main()
    told = capsys.readouterr()
    return int(end.value.code or 0), told.out + told.err


def test_three_kinds_of_teachers_are_asked_by_recipe_alone(site: Site) -> None:
    teachers = result(site, "whole")["teachers"]
    assert {teacher["name"] for teacher in teachers} == set(HOSPITALS)
    for teacher in teachers:
        assert teacher["samples_asked"] == BUDGET
        assert teacher["refusals"] == 0
        assert teacher["recipes"] == teacher["questions"] > 0, "rows were rendered over there"
        assert teacher["bytes_sent"] < BUDGET * 4, "less than the rows themselves"
    assert site.spent() == dict.fromkeys(HOSPITALS, BUDGET)


def test_the_owner_sees_how_well_the_student_does(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    owner, student = site.folder / "west" / "owner.toml", site.folder / "whole"
    words = ("score", owner, student / "student.safetensors")
    status, text = typed(monkeypatch, capsys, *words, "--json")
    assert status == 0, text
    scores = json.loads(text)
    assert scores["rows"] == 50
    assert scores["r2"] > 0.9, scores
    assert scores["rmse"] < 4, scores
    status, text = typed(monkeypatch, capsys, *words)
    assert (status, text.split(",")[0]) == (0, "rows 50")


def test_the_other_commands_of_an_owner_speak_of_rows_and_numbers(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    owner = site.folder / "north" / "owner.toml"
    assert typed(monkeypatch, capsys, "teach", owner) == (
        0,
        "north: a teacher of 1 number for rows of 4 columns is ready\n",
    )
    status, text = typed(monkeypatch, capsys, "card", owner)
    assert status == 0
    assert "age: 18 to 100; ward: intensive, general, burns; grade: 1, 2, 3; fever" in text
    assert "stay in days: 0 to 60" in text
    assert "images" not in text.replace("gradients", "")
    status, text = typed(monkeypatch, capsys, "card", owner, "--json")
    assert json.loads(text)["numbers"][0]["unit"] == "days"
    status, text = typed(monkeypatch, capsys, "ledger", "show", owner)
    assert (status, text.splitlines()[0]) == (
        0,
        "1,600 of 1,600 samples are spent, 0 queries were refused",
    )


def test_teachers_of_classes_and_of_numbers_are_trained_on_a_table(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    patients(200, 9).to_csv(tmp_path / "own.csv", index=False)
    owner = tmp_path / "owner.toml"
    tables: dict[str, Any] = {
        "name": "north",
        "teacher": {"model": "sklearn:RandomForest"},
        "data": {"source": "table:own.csv", "root": str(tmp_path)},
        "policy": {"signals": ["logits"], "samples": 9, "scores": True},
    }
    owner.write_text(tomli_w.dumps(tables))
    (tmp_path / "schema.toml").write_text(COLUMNS + OUTCOME)
    status, text = typed(monkeypatch, capsys, "card", owner, "--json")
    assert (status, json.loads(text)["class_names"]) == (0, ["well", "ill"])
    patients(200, 9).to_csv(tmp_path / "stay.csv", index=False)
    (tmp_path / "stay.schema.toml").write_text(COLUMNS + STAY)
    tables["data"]["source"] = "table:stay.csv"
    owner.write_text(tomli_w.dumps(tables))
    status, text = typed(monkeypatch, capsys, "card", owner, "--json")
    assert (status, json.loads(text)["scores"]) == (0, True), "sums of errors can be released"


def test_killed_and_resumed_a_run_makes_the_same_student_and_spends_nothing_twice(
    site: Site,
) -> None:
    site.tokens()
    words = site.server("stay.toml", "--out", "killed", "--checkpoint", "0.1")
    with serving(site) as clients:
        with running_server(site.folder, *words) as command:
            wait_for_questions(command, site.folder / "killed")
            command.process.send_signal(signal.SIGKILL)
            command.process.wait(SOON)
        assert not (site.folder / "killed" / "result.json").exists(), "killed before the end"
        with running_server(site.folder, *site.server("--resume", "killed")) as command:
            finished(site, command, clients)
    assert result(site, "killed")["resumed"] == 1
    students = [site.folder / run / "student.safetensors" for run in ("whole", "killed")]
    assert students[0].read_bytes() == students[1].read_bytes()
    assert site.spent() == dict.fromkeys(HOSPITALS, BUDGET), "repeats are free"


def wait_for_questions(command: ServerProcess, run: Path) -> None:
    """Until the run has asked something, and saved a state to go on from."""
    saved, events = run / "checkpoint", run / "events.jsonl"
    deadline = time.monotonic() + SOON
    while not (events.exists() and '"asked"' in events.read_text() and any(saved.iterdir())):
        assert command.process.poll() is None, command.errors[-3:]
        assert time.monotonic() < deadline
        time.sleep(0.02)
