"""Flower's messages: no reply ends a run, and scores that cannot be are left out."""

import logging
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from tests.support.flower_nodes import LocalGrid, allow_messages  # sets Flower's variables first

from flwr.app import Context, Error, Message, MetricRecord, RecordDict  # isort: skip
from flwr.clientapp import ClientApp  # isort: skip

from fedkd.errors import QuorumLost
from fedkd.server.run.flower_grid import (
    METRICS,
    broadcast,
    released_scores,
    successful_replies,
)

SOON = 5.0


@pytest.fixture(autouse=True)
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    allow_messages(monkeypatch)


def grid_of(*told: Callable[[Message], Message]) -> LocalGrid:
    """A node for each of ``told``, which makes its replies."""
    app = ClientApp()

    @app.evaluate()
    def reply(message: Message, context: Context) -> Message:
        return told[int(context.node_config["partition-id"])](message)

    return LocalGrid(app, len(told))


def scoring(**scores: Any) -> Callable[[Message], Message]:
    return lambda asked: Message(RecordDict({METRICS: MetricRecord(scores)}), reply_to=asked)


def silent(asked: Message) -> Message:
    return Message(RecordDict(), reply_to=asked)


def declining(reason: str) -> Callable[[Message], Message]:
    return lambda asked: Message(Error(1, reason), reply_to=asked)


def replies_of(*told: Callable[[Message], Message]) -> Iterable[Message]:
    grid = grid_of(*told)
    asked = broadcast(list(grid.get_node_ids()), RecordDict(), "evaluate", SOON)
    return grid.send_and_receive(asked, timeout=SOON)


def scores_of(*told: Callable[[Message], Message]) -> list[dict[str, Any]]:
    return [dict(each) for each in released_scores(replies_of(*told))]


def test_a_reason_of_a_node_reaches_the_terminal_as_one_short_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told = [declining(f"\x1b]0;mine\x07{n}\n" + 9_999 * "x") for n in range(4)]
    with pytest.raises(QuorumLost, match=r"expected 1: +\]0;mine") as caught:
        successful_replies(replies_of(*told), 1)
    assert len(caplog.messages) == 4
    assert all(text.isprintable() for text in (str(caught.value), *caplog.messages))
    assert max(map(len, (str(caught.value), *caplog.messages))) < 600


def test_scores_that_cannot_be_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    good = {"num-examples": 5, "accuracy": 0.5}
    bad = [scoring(**{"num-examples": n}) for n in ([1], -1, 2.0)]
    with caplog.at_level(logging.WARNING, "flwr"):
        assert scores_of(*bad, silent, scoring(**good)) == [good]
    assert len(caplog.messages) == 4
    caplog.clear()
    assert scores_of(scoring(), scoring(**good)) == [good]
    assert caplog.messages == [], "whose policy forbids scores sends none"


def test_too_few_replies_are_named() -> None:
    with pytest.raises(QuorumLost, match="0 institutions replied, expected 1: no reply came"):
        successful_replies([], 1)
