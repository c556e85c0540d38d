# ruff: noqa: E402
"""A ClientApp of a user's own teacher: session, evaluation, and where it cannot serve."""

from typing import Any

from fedkd.simulations.engines.environment_variables import set_environment_defaults

set_environment_defaults()  # before Flower is imported

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.app.user_config import UserConfig
from flwr.supercore.task_identity import TaskIdentity
from torch import nn

import fedkd
from fedkd.errors import SettingsError
from fedkd.models import Shape, build_network
from fedkd.protocol import Card
from fedkd.server.hub.hub import Hub

SHAPE = (1, 8, 8)


@pytest.fixture(autouse=True)
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside of a run, Flower's messages cannot be made without this."""
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


def node(**config: Any) -> Context:
    return Context(
        run_id=1,
        node_id=100,
        node_config=config,
        state=RecordDict(),
        run_config=UserConfig(),
    )


def asking(kind: str, **content: Any) -> Message:
    message = Message(RecordDict(content), dst_node_id=100, message_type=kind, ttl=20.0)
    message.metadata.__dict__["_message_id"] = kind  # a grid gives it one
    return message


def load_teacher(context: Context) -> nn.Module:
    return build_network("mlp", 4, SHAPE, seed=int(context.node_config["partition-id"]))


def build_student(classes: int, shape: Shape) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[1] * shape[2], classes))


def test_each_node_has_its_teacher_and_is_loaded_once() -> None:
    loaded: list[int] = []

    def load(context: Context) -> nn.Module:
        loaded.append(int(context.node_config["partition-id"]))
        return load_teacher(context)

    app = fedkd.flower.teacher_app(load, shape=SHAPE, classes=["a", "b", "c", "d"])
    nodes = [node(**{"partition-id": index}) for index in (0, 1)]

    def cards_of_a_run(token: str, *indices: int) -> list[Card]:
        with Hub(token, max_institutions=2) as hub:
            ring = ConfigRecord({"address": hub.address, "token": token})
            for index in indices:
                reply = app(asking("query.session", config=ring), nodes[index])
                assert reply.content.config_records["config"]["open"] == 1
            return sorted(hub.wait_for(len(set(indices)), 20.0), key=lambda card: card.name)

    cards = cards_of_a_run("token", 0, 1, 0)
    assert [card.name for card in cards_of_a_run("of another run", 0)] == ["institution-0"]
    assert [card.name for card in cards] == ["institution-0", "institution-1"]
    assert cards[0].class_names == ("a", "b", "c", "d")
    assert loaded == [0, 1]


def test_a_student_of_no_known_name_is_evaluated_by_its_weights() -> None:
    student, seen = build_student(4, SHAPE), list[torch.Tensor]()

    def evaluate(network: nn.Module, context: Context) -> dict[str, float]:
        assert not network.training
        seen.append(network(torch.ones(1, *SHAPE)))
        return {"num-examples": 7, "accuracy": 0.5}

    app = fedkd.flower.teacher_app(
        load_teacher, shape=SHAPE, student=build_student, evaluate=evaluate
    )
    config = ConfigRecord({"classes": ["0", "1", "2", "3"], "shape": list(SHAPE)})
    weights = ArrayRecord(student.state_dict())
    message = asking("evaluate", config=config, arrays=weights)
    reply = app(message, node(**{"partition-id": 0})).content.metric_records["metrics"]
    assert dict(reply) == {"num-examples": 7, "accuracy": 0.5}
    assert torch.equal(seen[0], student(torch.ones(1, *SHAPE)))
    silent = fedkd.flower.teacher_app(load_teacher, shape=SHAPE)
    assert not silent(message, node(**{"partition-id": 0})).content.metric_records["metrics"]


def test_a_node_that_ends_after_each_message_opens_no_session(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("sys.argv", ["/usr/bin/flwr-clientapp"])
    app = fedkd.flower.teacher_app(load_teacher, shape=SHAPE)
    ring = ConfigRecord({"address": "127.0.0.1:1", "token": "t"})
    reply = app(asking("query.session", config=ring), node(**{"partition-id": 0}))
    assert reply.has_error()
    assert "start fedkd-client serve" in caplog.text


def test_evaluation_takes_both() -> None:
    with pytest.raises(SettingsError, match="both student and evaluate"):
        fedkd.flower.teacher_app(load_teacher, student=build_student)
