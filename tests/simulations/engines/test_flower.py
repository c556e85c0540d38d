# ruff: noqa: E402
"""Flower's part: strategy, ClientApp, ServerApp, bundle, simulation. Real apps, hub and gRPC."""

import json
import os
import socket
import subprocess
import sys
import threading
import tomllib
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedkd.simulations.engines.environment_variables import (
    ENVIRONMENT_DEFAULTS,
    set_environment_defaults,
)

set_environment_defaults()  # before Flower, Ray and gRPC are imported

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.app.user_config import UserConfig
from flwr.supercore import telemetry

from fedkd.client.client_app import app as client_app
from fedkd.client.config.owner_config import load_owner_config
from fedkd.client.control.server import ControlServer
from fedkd.client.institution import owner_institution
from fedkd.client.sessions.session_manager import SessionManager
from fedkd.data.datasets import open_data
from fedkd.errors import QuorumLost, SettingsError
from fedkd.evaluation import accuracy, predict_logits
from fedkd.experiment import Experiment, load_experiment, parse_experiment
from fedkd.loop import Plan, Progress
from fedkd.methods import cudfkd
from fedkd.models import build_network
from fedkd.procedural import build_priors
from fedkd.server.drivers.flower_driver import ROUNDS, RunOutcome, distil_over_flower
from fedkd.server.flower_strategy import DataFreeDistillation
from fedkd.server.hub.bans import BanReason
from fedkd.server.hub.hub import Hub
from fedkd.server.run.checkpoint import Checkpoint
from fedkd.server.run.run_recorder import RunRecorder
from fedkd.server.server_app import app as server_app
from fedkd.simulations.engines.flower_simulation import simulate
from fedkd.simulations.rehearsal.flwr_run import (
    COMMANDS,
    FLOWER_APP,
    FlowerInstallation,
    failure_of_run,
    main,
)
from fedkd.tasks import Regression
from tests.support.flower_nodes import LocalGrid, allow_messages, context

REPOSITORY = Path(__file__).parents[3]
SOON = 20.0
SMALL: dict[str, Any] = {
    "name": "small",
    "institutions": {"count": 2, "partition": "iid", "epochs": 2, "models": ["mlp"]},
    "questions": {"budget": 256, "batch": 32},
    "student": {"steps": 60},
}


@pytest.fixture(autouse=True)
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    allow_messages(monkeypatch)


def told(experiment: Experiment, folder: Path) -> ConfigRecord:
    return ConfigRecord({"experiment": experiment.model_dump_json(), "folder": str(folder)})


def strategy(**changes: Any) -> DataFreeDistillation:
    parts: dict[str, Any] = {
        "method": cudfkd(),
        "student": build_network("mlp", 10, (1, 8, 8), seed=0),
        "plan": Plan(budget=256, batch=32, steps=60),
        "priors": build_priors("pink", "levels"),
        "model": "mlp",
    }
    return DataFreeDistillation(**{**parts, **changes})


def asking(config: ConfigRecord, kind: str = "query.session") -> Message:
    return Message(RecordDict({"config": config}), dst_node_id=100, message_type=kind, ttl=SOON)


@pytest.fixture
def fresh() -> torch.nn.Module:
    return build_network("mlp", 10, (1, 8, 8), seed=1)


# --- the strategy


def test_rounds_are_epochs_of_one_session_and_accuracy_is_of_the_whole_test_split(
    tmp_path: Path, fresh: torch.nn.Module
) -> None:
    seven = parse_experiment(
        {**SMALL, "institutions": {"count": 7, "epochs": 2, "models": ["mlp"]}}
    )
    grid, config, seen = LocalGrid(client_app, 7), told(seven, tmp_path), list[Progress]()
    plan = strategy(min_available_nodes=7, watch=seen.append)
    result = plan.start(
        grid, ArrayRecord(fresh.state_dict()), 3, SOON, train_config=config, evaluate_config=config
    )

    assert grid.sent.count("query.session") == 7, "each node is rung once"
    assert grid.sent.count("evaluate") == 3 * 7
    trained = result.train_metrics_clientapp
    assert [trained[r]["institutions"] for r in (1, 2, 3)] == [7, 7, 7]
    assert 0 < trained[1]["asked"] < trained[2]["asked"] == trained[3]["asked"] == 256  # type: ignore[operator]
    assert {"loss", "difficulty", "curriculum_lambda"} <= set(trained[3])
    assert plan.distilled is not None
    held_back = {f"held_back_{name}": value for name, value in plan.distilled.held_back.items()}
    assert held_back["held_back_count"] in range(1, 40)
    assert held_back == {n: v for n, v in trained[3].items() if n.startswith("held_back")}
    assert {c.samples_asked for c in plan.counters.values()} == {256}
    assert plan.distilled.student_steps == 60

    arrays = result.arrays.to_torch_state_dict()
    for name, value in plan.parts.student.state_dict().items():
        assert torch.equal(arrays[name], value)
    data = open_data("digits")
    truth = accuracy(predict_logits(plan.parts.student, data.test_images), data.test_labels)
    told_us = result.evaluate_metrics_clientapp[3]
    # 360 images in 7 slices are 51 or 52 each: a mean without weights would be another number.
    assert told_us["num-examples"] == len(data.test_labels) == 360
    assert told_us["accuracy"] == pytest.approx(truth)
    scored = [progress.facts for progress in seen if progress.kind == "scored"]
    assert [s["accuracy"] for s in scored][-1] == told_us["accuracy"]


def test_the_student_starts_from_the_initial_arrays(tmp_path: Path, fresh: torch.nn.Module) -> None:
    config, before = told(parse_experiment(SMALL), tmp_path), fresh.state_dict()
    idle = strategy(plan=Plan(budget=32, batch=32, steps=0), model=None)
    result = idle.start(LocalGrid(client_app, 2), ArrayRecord(before), 1, SOON, config)
    assert all(torch.equal(v, before[k]) for k, v in result.arrays.to_torch_state_dict().items())
    assert not result.evaluate_metrics_clientapp, "nobody was to evaluate it"

    with pytest.raises(SettingsError, match="do not fit the student"):
        idle.start(LocalGrid(client_app, 2), ArrayRecord(build_other().state_dict()), 1, SOON)


def build_other() -> torch.nn.Module:
    return build_network("cnn", 10, (1, 8, 8), seed=0)


def test_too_few_nodes_end_the_wait(fresh: torch.nn.Module) -> None:
    with pytest.raises(QuorumLost, match="1 nodes came within"):
        strategy().start(LocalGrid(client_app, 1), ArrayRecord(fresh.state_dict()), 1, 0.1)


class Death(BaseException):
    """Of the coordinator's process."""


def test_a_resumed_strategy_scores_and_asks_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedkd.server.run.checkpoint.MIN_SPACING", 0)  # a state at every rest
    experiment, told = parse_experiment(SMALL), list[Progress]()
    vaults = tmp_path / "vaults"
    whole = distil_over_flower(LocalGrid(client_app, 2), experiment, vaults, told.append, rounds=6)

    def live(checkpoint: Checkpoint, until: int | None) -> tuple[LocalGrid, list[str], RunOutcome]:
        grid, events = LocalGrid(client_app, 2), list[str]()
        recorder = RunRecorder(tmp_path / "run", experiment, "simulation", checkpoint=checkpoint)

        def watch(progress: Progress) -> None:
            if progress.kind == "scored" and events.count("scored") == until:
                raise Death
            events.append(progress.kind)
            recorder(progress)

        try:
            return grid, events, distil_over_flower(grid, experiment, vaults, watch, 6, checkpoint)
        finally:
            checkpoint.close()

    first = Checkpoint.begin(tmp_path / "run", experiment, "simulation", 1e-9)
    with pytest.raises(Death):
        live(first, 2)
    questions = first.questions
    assert questions > 0
    second = Checkpoint.resume(tmp_path / "run")
    grid, events, outcome = live(second, None)
    assert events.count("scored") == 4, "two rounds were examined in the first life"
    assert grid.sent.count("evaluate") == 4 * 2
    assert {c.samples_asked for c in outcome.counters.values()} == {256 - 32 * questions}
    counted = second.total_counts()
    assert {of["samples_asked"] for of in counted.values()} == {256}
    for name, of in whole.counters.items():
        assert counted[name]["bytes_received"] == of.bytes_received > 0
    assert outcome.scores == whole.scores
    other = whole.distilled.student.state_dict()
    for name, value in outcome.distilled.student.state_dict().items():
        assert torch.equal(value, other[name])
    lines = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").open()]
    scored = [line["accuracy"] for line in lines if line["kind"] == "scored"]
    assert scored == [p.facts["accuracy"] for p in told if p.kind == "scored"]


def test_bans_outlast_a_resumed_strategy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedkd.server.run.checkpoint.MIN_SPACING", 0)
    experiment, path = parse_experiment(SMALL), tmp_path / "run"

    def die(progress: Progress) -> None:
        if progress.kind == "scored":
            raise Death

    first = Checkpoint.begin(path, experiment, "simulation", 1e-9)
    with pytest.raises(Death):
        distil_over_flower(LocalGrid(client_app, 2), experiment, tmp_path, die, 6, first)
    first.bans.add("institution-1", BanReason("it sent rubbish"))
    first.close()
    second = Checkpoint.resume(path)
    recorded = second.questions
    assert 0 < recorded < 256 // 32
    outcome = distil_over_flower(
        LocalGrid(client_app, 2), experiment, tmp_path, rounds=6, checkpoint=second
    )
    second.close()
    asked = {name: of.samples_asked for name, of in outcome.counters.items()}
    assert asked == {"institution-0": 256 - 32 * recorded, "institution-1": 0}


def test_scores_of_numbers_are_those_of_all_test_rows(tmp_path: Path) -> None:
    settings = ["institutions.count=2", "questions.budget=128", "student.steps=60"]
    experiment = load_experiment("diabetes", [*settings, 'institutions.models=["sklearn:Ridge"]'])
    events: list[Mapping[str, object]] = []
    outcome = distil_over_flower(
        *(LocalGrid(client_app, 2), experiment, tmp_path),
        lambda progress: events.append({"kind": progress.kind, **progress.facts}),
        rounds=2,
    )
    data = open_data("table:diabetes")
    said = predict_logits(outcome.distilled.student, data.test_images).clamp(0, 1)
    truth = Regression(data.numbers).scores(said, data.test_labels)
    assert truth.keys() == outcome.scores.keys() == {"r2", "rmse", "mae"}
    for name, value in truth.items():
        assert outcome.scores[name] == pytest.approx(value)
    scored = [event["r2"] for event in events if event["kind"] == "scored"]
    assert len(scored) == 2
    assert scored[-1] == outcome.scores["r2"]


def test_no_accuracy_is_released_where_policies_forbid_it(tmp_path: Path) -> None:
    silent = parse_experiment({**SMALL, "policy": {"scores": False}})
    outcome = distil_over_flower(LocalGrid(client_app, 2), silent, tmp_path, rounds=1)
    assert outcome.scores == {}
    assert outcome.distilled.asked == 256


def test_a_server_app_leaves_the_folder_of_a_run(tmp_path: Path) -> None:
    file, out = tmp_path / "tiny.toml", tmp_path / "run"
    file.write_text(
        "[institutions]\ncount = 2\nepochs = 3\n[questions]\nbudget = 64\n[student]\nsteps = 500\n"
    )
    config: UserConfig = {"experiment": str(file), "seed": 7, "out": str(out)}
    config["set"] = "student.steps=20"
    ours = Context(1, 1, UserConfig(), RecordDict(), config)
    server_app(LocalGrid(client_app, 2), ours)
    result = json.loads((out / "result.json").read_text())
    assert (result["engine"], result["seed"], result["student_steps"]) == ("flower", 7, 20)
    assert 0 <= result["student"]["accuracy"] <= 1
    assert [t["samples_asked"] for t in result["teachers"]] == [64, 64]
    assert (out / "report.html").is_file()
    assert (out / "student.safetensors").is_file()


# --- the control socket


def test_two_notifications_open_one_session(tmp_path: Path) -> None:
    with Hub("token") as hub:
        ring = ConfigRecord({**told(parse_experiment(SMALL), tmp_path), "address": hub.address})
        ring["token"] = "token"
        node = context(1)
        for _ in range(2):
            assert client_app(asking(ring), node).content["config"]["open"] == 1
        assert [card.name for card in hub.wait_for(1, SOON)] == ["institution-1"]
        agents = [t for t in threading.enumerate() if t.name == "fedkd-agent-institution-1"]
        assert len(agents) == 1
    agents[0].join(SOON)
    assert not agents[0].is_alive(), "the session ends with the hub"


def test_no_text_of_an_exception_reaches_the_server(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    private = parse_experiment(
        {**SMALL, "institutions": {"count": 2, "data": "folder:ward-7-patients"}}
    )
    config = told(private, tmp_path)
    config["address"], config["token"] = "127.0.0.1:1", "token"
    for kind in ("query.session", "evaluate"):
        reply = client_app(asking(config, kind), context(0))
        assert reply.has_error()
        assert reply.error.reason == (
            "this institution could not do what was asked; its own log says why"
        )
    assert "ward-7-patients" in caplog.text, "the owner's own log has it"


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        ({"agent": "no-such.sock", "partition-id": 0}, "have the owner start fedkd-client serve"),
        ({}, "no institution"),
    ],
)
def test_a_bundle_opens_nothing_on_an_owners_machine(
    tmp_path: Path, node: dict[str, Any], reason: str
) -> None:
    owners = context(0)
    owners.node_config = UserConfig(node)
    for kind in ("query.session", "evaluate"):
        reply = client_app(asking(told(parse_experiment(SMALL), tmp_path), kind), owners)
        assert reply.has_error()
        assert reason in str(reply.error.reason)
        assert "\n" not in str(reply.error.reason)
    assert not list(tmp_path.iterdir())


# --- owners' own agents

OWNER = """
name = "{name}"
[teacher]
model = "mlp"
epochs = 2
[data]
source = "digits"
index = {index}
count = 2
[policy]
signals = ["logits"]
samples = 256
class_counts = true
scores = {scores}
servers = ["{server}"]
[connection]
insecure = true
"""


@contextmanager
def agent(folder: Path, server: str, index: int, scores: str = "true") -> Iterator[Path]:
    """An owner's agent without its process; its socket."""
    folder.mkdir()
    file = folder / "owner.toml"
    file.write_text(OWNER.format(name=f"site-{index}", index=index, scores=scores, server=server))
    owner = load_owner_config(file)
    institution = owner_institution(owner)
    sessions = SessionManager(institution, owner.servers, None)
    try:
        with ControlServer(owner.state.control_socket, institution, sessions):
            yield owner.state.control_socket
    finally:
        sessions.close()


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as there:
        return "{}:{}".format(*there.getsockname())


def on_owners_machine(node: Context, bell: Path) -> Context:
    node.node_config = UserConfig({"agent": str(bell)})
    return node


def test_owners_agents_take_part_through_flower(tmp_path: Path) -> None:
    server = free_address()
    with agent(tmp_path / "a", server, 0) as a, agent(tmp_path / "b", server, 1) as b:
        grid = LocalGrid(client_app, 2)
        for node, bell in zip(grid.contexts.values(), (a, b), strict=True):
            on_owners_machine(node, bell)
        experiment = parse_experiment(
            {**SMALL, "questions": {**SMALL["questions"], "address": server}}
        )
        outcome = distil_over_flower(grid, experiment, tmp_path / "unused", rounds=2)
    assert [card.name for card in outcome.cards] == ["site-0", "site-1"]
    assert {counters.samples_asked for counters in outcome.counters.values()} == {256}
    data = open_data("digits")
    truth = accuracy(predict_logits(outcome.distilled.student, data.test_images), data.test_labels)
    assert outcome.scores == {"accuracy": pytest.approx(truth)}, "both examined the student"
    assert not (tmp_path / "unused").exists(), "nothing simulated was opened"


def test_a_bundle_gets_from_an_owners_agent_what_its_policy_allows(tmp_path: Path) -> None:
    student = build_network("mlp", 10, (1, 8, 8), seed=0)
    asked = {"address": "127.0.0.1:9", "token": "t", "model": "mlp", "classes": [*"0123456789"]}
    config = ConfigRecord({**told(parse_experiment(SMALL), tmp_path), **asked, "shape": [1, 8, 8]})
    with agent(tmp_path / "a", "127.0.0.1:1", 0, scores="false") as bell:
        node = on_owners_machine(context(0), bell)
        with pytest.raises(ValueError, match="card"):  # of Flower: nobody asks for a card by it
            client_app(asking(config, "query.card"), node)
        dialled = client_app(asking(config), node)
        assert dialled.error.reason == "this institution does not dial that address"
        examined = asking(config, "evaluate")
        examined.content["arrays"] = ArrayRecord(student.state_dict())
        assert not client_app(examined, node).content["metrics"]
    gone = client_app(asking(config), node)
    assert "have the owner start" in str(gone.error.reason)
    assert str(tmp_path) not in str(gone.error.reason)


# --- processes that are started


def test_telemetry_and_dependency_installation_are_off() -> None:
    look = (
        "from fedkd.simulations.engines import environment_variables\n"
        "environment_variables.set_environment_defaults()\n"
        "from flwr.supercore.telemetry import FLWR_TELEMETRY_ENABLED as telemetry\n"
        "from flwr.superlink.cli.flower_superlink import _runtime_dependency_install_default\n"
        "from ray._common.usage.usage_lib import usage_stats_enabled\n"
        "print(telemetry, _runtime_dependency_install_default(), usage_stats_enabled())\n"
    )
    bare = {name: value for name, value in os.environ.items() if name not in ENVIRONMENT_DEFAULTS}
    output = subprocess.run(
        [sys.executable, "-c", look],
        cwd=REPOSITORY,
        env=bare,
        text=True,
        capture_output=True,
        check=False,
    )
    assert output.stdout.split() == ["0", "False", "False"], output.stderr


def test_what_a_user_has_set_stays_but_for_our_own_superlink(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION", "0")
    monkeypatch.delenv("FLWR_TELEMETRY_ENABLED")
    set_environment_defaults()
    assert os.environ["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "0"
    assert os.environ["FLWR_TELEMETRY_ENABLED"] == "0"
    ours = FlowerInstallation(tmp_path, tmp_path, (1, 2)).environment
    assert {name: ours[name] for name in ENVIRONMENT_DEFAULTS} == ENVIRONMENT_DEFAULTS
    assert ours["FLWR_HOME"] == str(tmp_path)


def test_the_bundle_holds_names_and_no_code(tmp_path: Path) -> None:
    subprocess.run(
        [COMMANDS / "flwr", "build", "--app", FLOWER_APP],
        cwd=tmp_path,
        env=FlowerInstallation(tmp_path, tmp_path, (1, 2)).environment,
        capture_output=True,
        check=True,
    )
    (bundle,) = tmp_path.glob("*.fab")
    with zipfile.ZipFile(bundle) as held:
        assert {name for name in held.namelist() if not name.startswith(".info/")} == {
            "LICENSE",
            "pyproject.toml",
        }
        assert held.read("LICENSE") == (REPOSITORY / "LICENSE").read_bytes()
    app, ours = (
        tomllib.loads((folder / "pyproject.toml").read_text())["project"]
        for folder in (FLOWER_APP, REPOSITORY)
    )
    assert (app["name"], app["version"]) == (ours["name"], ours["version"])
    (flower,) = app["dependencies"]
    assert flower in ours["optional-dependencies"]["flower"]
    simulation = ours["optional-dependencies"]["simulation"]
    assert flower.replace("flwr", "flwr[simulation]") in simulation


@pytest.mark.parametrize(
    ("listing", "failure"),
    [
        ({"runs": [{"status": "finished:completed", "status-details": "N/A"}]}, None),
        (
            {
                "runs": [
                    {
                        "status": "finished:failed",
                        "status-details": "Simulation failed with exception: no such\n prior",
                    }
                ]
            },
            "no such prior",
        ),
        ({"runs": []}, "Flower took no run; see its messages above"),
    ],
)
def test_a_failed_run_is_reported_in_one_line(listing: dict[str, Any], failure: str | None) -> None:
    assert failure_of_run(json.dumps(listing)) == failure


def test_flowers_colours_stay_out_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fedkd.simulations.rehearsal.flwr_run.COMMANDS", tmp_path)
    (tmp_path / "flwr").write_text("#!/bin/sh\nprintf '\\033[92mINFO \\033[0m: hello\\n' >&2\n")
    (tmp_path / "flwr").chmod(0o700)
    assert FlowerInstallation(tmp_path, tmp_path, (1, 2)).command("run") == ""
    assert capsys.readouterr().out == "INFO : hello\n"


def test_a_wrong_experiment_ends_before_anything_is_started(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["digitz"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_simulation_asks_two_workers_over_grpc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FLWR_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setitem(telemetry.state, "source", None)  # as in a process that has just started
    seen: list[str] = []
    outcome = simulate(
        parse_experiment(SMALL), tmp_path, lambda progress: seen.append(progress.kind)
    )
    assert [card.name for card in outcome.cards] == ["institution-0", "institution-1"]
    for counters in outcome.counters.values():
        assert counters.samples_asked == 256
        assert counters.recipes == counters.questions
        assert counters.bytes_sent < 256 * 64, "images were named, not sent"
        assert counters.refusals == 0
    assert len(list(tmp_path.glob("*/teacher.safetensors"))) == 2
    assert seen.count("scored") == ROUNDS
    data = open_data("digits")
    truth = accuracy(predict_logits(outcome.distilled.student, data.test_images), data.test_labels)
    assert outcome.scores == {"accuracy": pytest.approx(truth)}
    assert telemetry.state["source"] is not None, "Flower has not looked for its home"
    assert not (tmp_path / "home" / ".flwr").exists()
