# ruff: noqa: E402
"""Flower's nodes in this process: its apps and strategies without a SuperLink and without Ray."""

import uuid
from collections.abc import Iterable
from typing import Any

from fedkd.simulations.engines.environment_variables import set_environment_defaults

set_environment_defaults()  # before Flower, Ray and gRPC are imported

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.app.user_config import UserConfig
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity


class LocalGrid(Grid):
    """Nodes in this process.

    Args:
        app: of every node.
        count: of nodes.
        limited: whether every message must have a time to live of its own, which Flower's
            strategies do not give.
    """

    def __init__(self, app: ClientApp, count: int, limited: bool = True) -> None:
        self.app, self.limited = app, limited
        self.contexts = {100 + index: context(index) for index in range(count)}
        self.sent: list[str] = []

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        assert timeout is not None, "Flower would wait for ever"
        return [self.deliver(message) for message in messages]

    def deliver(self, message: Message) -> Message:
        assert not self.limited or message.metadata.ttl < 3600 * 12, (
            "a message without a limit of its own"
        )
        message.metadata.__dict__["_message_id"] = str(uuid.uuid4())
        self.sent.append(message.metadata.message_type)
        return self.app(message, self.contexts[message.metadata.dst_node_id])

    def get_node_ids(self) -> Iterable[int]:
        return self.contexts

    def set_run(self, run: Run) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Run:
        raise NotImplementedError

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise NotImplementedError

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise NotImplementedError


def context(index: int, **node: Any) -> Context:
    return Context(
        run_id=1,
        node_id=100 + index,
        node_config={"partition-id": index, "num-partitions": 2, **node},
        state=RecordDict(),
        run_config=UserConfig(),
    )


def allow_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside of a run, Flower's messages cannot be made without this."""
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
