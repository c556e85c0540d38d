"""Over Flower too no node ends a run or keeps another out: by its card, its name or its absence."""

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.flower_nodes import LocalGrid, allow_messages  # sets Flower's variables first

from flwr.app import Context, Message, MetricRecord, RecordDict  # isort: skip
from flwr.clientapp import ClientApp  # isort: skip

from fedkd.client.sessions.agent import Agent
from fedkd.errors import QuorumLost
from fedkd.experiment import parse_experiment
from fedkd.protocol import Card, Number, Signal
from fedkd.server.drivers.flower_driver import RunOutcome, distil_over_flower
from tests.support.hub_clients import QUICK, SOON, card, honest_answer

WIDE = (3, 4, 4)
SOON_GONE = replace(QUICK, give_up_after=1.0)
"""Of agents whose run fails: it says no goodbye, since it might be resumed."""


@pytest.fixture(autouse=True)
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    allow_messages(monkeypatch)


class Nodes:
    """Nodes with agents, and what these were told at their end.

    Args:
        cards: of each node; None for one that accepts Flower's message and stays away.
    """

    def __init__(self, cards: Sequence[Card | None]) -> None:
        self.cards, self.threads = cards, list[threading.Thread]()
        self.reasons: dict[int, str] = {}
        app = ClientApp()
        self.grid = LocalGrid(app, len(cards))

        @app.query("session")
        def session(message: Message, context: Context) -> Message:
            node = int(context.node_config["partition-id"])
            if (one := cards[node]) is not None:
                self._connect(node, one, message)
            return Message(RecordDict(), reply_to=message)

        @app.evaluate()
        def evaluate(message: Message, context: Context) -> Message:
            return Message(RecordDict({"metrics": MetricRecord()}), reply_to=message)

    def _connect(self, node: int, one: Card, message: Message) -> None:
        config = message.content.config_records["config"]
        address, token = str(config["address"]), str(config["token"])
        agent = Agent(address, token, one, honest_answer, reconnect=SOON_GONE)
        thread = threading.Thread(target=lambda: self.reasons.update({node: agent.serve()}))
        self.threads.append(thread)
        thread.start()


def distilled(
    folder: Path, *cards: Card | None, quorum: int = 1
) -> tuple[RunOutcome, dict[int, str]]:
    """A run, and what each node's agent was told at its end."""
    nodes = Nodes(cards)
    experiment = parse_experiment(
        {
            "name": "small",
            "institutions": {"count": len(cards)},
            "student": {"model": "mlp", "steps": 8},
            "questions": {"budget": 16, "batch": 4, "quorum": quorum},
        }
    )
    try:
        return distil_over_flower(nodes.grid, experiment, folder, rounds=1), nodes.reasons
    finally:
        for thread in nodes.threads:
            thread.join(SOON)
            assert not thread.is_alive()


def outputs(outcome: RunOutcome) -> int:
    return len([*outcome.distilled.student.parameters()][-1])


ODD = card("odd")


@pytest.mark.parametrize(
    ("odd", "says"),
    [
        (replace(ODD, shape=WIDE), "odd reads images of"),
        (replace(ODD, signals=frozenset({Signal.FEATURES})), "logits"),
        (replace(ODD, numbers=tuple(Number(str(place)) for place in range(5))), "odd predicts"),
        (replace(ODD, largest_batch=2), "batch"),
    ],
)
def test_whose_card_does_not_fit_is_turned_away_and_the_run_goes_on(
    tmp_path: Path, odd: Card, says: str
) -> None:
    outcome, reasons = distilled(tmp_path, card("north"), card("south"), odd)
    assert [each.name for each in outcome.cards] == ["north", "south"]
    assert outcome.distilled.asked == 16
    assert says in reasons[2]


def test_a_class_that_only_who_stays_away_knows_is_none_of_the_students(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedkd.server.drivers.flower_driver.NODE_TIMEOUT", 1.0)
    outcome, _ = distilled(tmp_path, card("north"), card("south"), None)
    assert [each.name for each in outcome.cards] == ["north", "south"]
    assert outputs(outcome) == 5
    six = replace(card("south"), classes=6)
    outcome, _ = distilled(tmp_path, card("north"), six, None)
    assert outputs(outcome) == 6


def test_two_nodes_of_one_name_are_no_two_institutions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedkd.server.drivers.flower_driver.NODE_TIMEOUT", 1.0)
    north = card("north")
    for other in (north, replace(north, classes=6), replace(north, shape=WIDE)):
        with pytest.raises(QuorumLost, match=r"1 institution came .*expected 2"):
            distilled(tmp_path, north, other, quorum=2)
