"""Flower's messages: what a teacher predicts is read as told, and no reply ends a run."""

import logging
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.flower_nodes import LocalGrid, allow_messages  # sets Flower's variables first

from flwr.app import ConfigRecord, Context, Error, Message, MetricRecord, RecordDict  # isort: skip
from flwr.clientapp import ClientApp  # isort: skip

from fedkd.errors import QuorumLost
from fedkd.protocol import Card
from fedkd.server.run.flower_grid import (
    CONFIG,
    METRICS,
    broadcast,
    collect_cards,
    released_scores,
    successful_replies,
)
from fedkd.server.run.quorum import Quorum

PLAIN: dict[str, Any] = {"name": "north", "classes": 32, "class_names": [], "shape": [1, 8, 8]}
SOON = 5.0


@pytest.fixture(autouse=True)
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    allow_messages(monkeypatch)


def grid_of(*told: Callable[[Message], Message]) -> LocalGrid:
    """A node for each of ``told``, which makes its replies."""
    app = ClientApp()

    @app.query("card")
    @app.evaluate()
    def reply(message: Message, context: Context) -> Message:
        return told[int(context.node_config["partition-id"])](message)

    return LocalGrid(app, len(told))


def saying(record: str = CONFIG, **fields: Any) -> Callable[[Message], Message]:
    kind = MetricRecord if record == METRICS else ConfigRecord
    return lambda asked: Message(RecordDict({record: kind(fields)}), reply_to=asked)


def silent(asked: Message) -> Message:
    return Message(RecordDict(), reply_to=asked)


def declining(reason: str) -> Callable[[Message], Message]:
    return lambda asked: Message(Error(1, reason), reply_to=asked)


def cards_of(*told: Callable[[Message], Message], minimum: int = 1) -> tuple[Card, ...]:
    quorum = Quorum(len(told), minimum, SOON)
    return collect_cards(grid_of(*told), quorum, ConfigRecord())


def scores_of(*told: Callable[[Message], Message]) -> list[dict[str, Any]]:
    grid = grid_of(*told)
    asked = broadcast(list(grid.get_node_ids()), RecordDict(), "evaluate", SOON)
    return [dict(each) for each in released_scores(grid.send_and_receive(asked, timeout=SOON))]


@pytest.mark.parametrize(
    ("told", "predicts"),
    [({"embedding": True}, "embedding"), ({}, "classes"), ({"embedding": 7}, "classes")],
)
def test_a_card_tells_whether_its_teacher_outputs_an_embedding(
    told: dict[str, bool | int], predicts: str
) -> None:
    assert [card.predicts for card in cards_of(saying(**PLAIN, **told))] == [predicts]


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"shape": [1, 8]}, "field shape"),
        ({"shape": [1.0, 8.0, 8.0]}, "field shape"),
        ({"shape": [1, 8, 0]}, "1 x 8 x 0"),
        ({"name": 7}, "field name"),
        ({"name": "\x1b[2Jnorth"}, "printable"),
        ({"name": None}, "field name"),
        ({"classes": "x"}, "field classes"),
        ({"classes": True}, "field classes"),
        ({"classes": 10**9}, "1000000000 classes"),
        ({"class_names": "ab", "classes": 2}, "field class_names"),
        ({"numbers": '[{"name": "cost", "high": 5e-324}]', "classes": 1}, "a range from 0.0"),
    ],
)
def test_a_node_with_a_card_that_cannot_be_is_left_out(
    changed: dict[str, Any], says: str, caplog: pytest.LogCaptureFixture
) -> None:
    fields = {name: value for name, value in {**PLAIN, **changed}.items() if value is not None}
    with caplog.at_level(logging.WARNING, "flwr"):
        assert [card.name for card in cards_of(saying(**fields), saying(**PLAIN))] == ["north"]
    (warning,) = caplog.messages
    assert "node 100: " in warning
    assert says in warning
    assert warning.isprintable()
    with pytest.raises(QuorumLost, match=r"1 institutions replied, expected 2: node 100: "):
        cards_of(saying(**fields), saying(**PLAIN), minimum=2)


def test_a_node_that_sends_no_card_is_left_out() -> None:
    assert len(cards_of(silent, saying(**PLAIN), saying(METRICS, x=1))) == 1
    with pytest.raises(QuorumLost, match="without a record config"):
        cards_of(silent)


def test_a_reason_of_a_node_reaches_the_terminal_as_one_short_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told = [declining(f"\x1b]0;mine\x07{n}\n" + 9_999 * "x") for n in range(4)]
    with pytest.raises(QuorumLost, match=r"expected 1: +\]0;mine") as caught:
        cards_of(*told)
    assert len(caplog.messages) == 4
    assert all(text.isprintable() for text in (str(caught.value), *caplog.messages))
    assert max(map(len, (str(caught.value), *caplog.messages))) < 600


def test_scores_that_cannot_be_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    good = {"num-examples": 5, "accuracy": 0.5}
    bad = [saying(METRICS, **{"num-examples": n}) for n in ([1], -1, 2.0)]
    with caplog.at_level(logging.WARNING, "flwr"):
        assert scores_of(*bad, silent, saying(METRICS, **good)) == [good]
    assert len(caplog.messages) == 4
    caplog.clear()
    assert scores_of(saying(METRICS), saying(METRICS, **good)) == [good]
    assert caplog.messages == [], "whose policy forbids scores sends none"


def test_too_few_replies_are_named() -> None:
    with pytest.raises(QuorumLost, match="0 institutions replied, expected 1: no reply came"):
        successful_replies([], 1)
