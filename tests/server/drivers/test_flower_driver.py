"""Cards told over Flower are a node's word: it takes nobody else's place, and no run with it."""

import threading
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tests.support.flower_nodes import LocalGrid, allow_messages  # sets Flower's variables first

from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict  # isort: skip
from flwr.clientapp import ClientApp  # isort: skip

from fedkd.client.control.flower_forwarding import table_fields
from fedkd.client.sessions.agent import Agent
from fedkd.errors import QuorumLost
from fedkd.experiment import Expect, parse_experiment
from fedkd.protocol import Card, Number
from fedkd.server.drivers.flower_driver import RunOutcome, _misfit_at_hub, distil_over_flower
from tests.support.hub_clients import QUICK, SOON, card, honest_answer

WIDE = (3, 4, 4)


@pytest.fixture(autouse=True)
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    allow_messages(monkeypatch)


class Nodes:
    """Nodes with agents, and what these were told at their end.

    Args:
        cards: of each node: as told over Flower, and as told to the hub.
    """

    def __init__(self, cards: Sequence[tuple[Card, Card]]) -> None:
        self.cards, self.threads = cards, list[threading.Thread]()
        self.reasons: dict[int, str] = {}
        app = ClientApp()
        self.grid = LocalGrid(app, len(cards))

        @app.query("card")
        def told(message: Message, context: Context) -> Message:
            one = cards[int(context.node_config["partition-id"])][0]
            fields = {"name": one.name, "classes": one.classes, "shape": list(one.shape)}
            names = {"class_names": list(one.class_names or ())}
            record = ConfigRecord({**fields, **names, **table_fields(asdict(one))})
            return Message(RecordDict({"config": record}), reply_to=message)

        @app.query("session")
        def session(message: Message, context: Context) -> Message:
            self._connect(int(context.node_config["partition-id"]), message)
            return Message(RecordDict(), reply_to=message)

        @app.evaluate()
        def evaluate(message: Message, context: Context) -> Message:
            return Message(RecordDict({"metrics": MetricRecord()}), reply_to=message)

    def _connect(self, node: int, message: Message) -> None:
        config = message.content.config_records["config"]
        address, token = str(config["address"]), str(config["token"])
        agent = Agent(address, token, self.cards[node][1], honest_answer, reconnect=QUICK)
        thread = threading.Thread(target=lambda: self.reasons.update({node: agent.serve()}))
        self.threads.append(thread)
        thread.start()


def distilled(
    folder: Path, quorum: int, *cards: tuple[Card, Card]
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
    outcome = distil_over_flower(nodes.grid, experiment, folder, rounds=1)
    for thread in nodes.threads:
        thread.join(SOON)
        assert not thread.is_alive()
    return outcome, nodes.reasons


def test_who_tells_the_name_of_another_does_not_keep_it_out(tmp_path: Path) -> None:
    north, south, west = map(card, ("north", "south", "west"))
    for impostor in (replace(north, shape=WIDE), replace(north, classes=6)):
        told = (north, north), (south, south), (impostor, west)
        outcome, _ = distilled(tmp_path, 1, *told)
        assert [each.name for each in outcome.cards] == ["north", "south", "west"]


def test_whose_hub_card_is_another_is_turned_away_and_the_run_goes_on(tmp_path: Path) -> None:
    north, south, odd = map(card, ("north", "south", "odd"))
    told = (north, north), (south, south), (odd, replace(odd, classes=6))
    outcome, reasons = distilled(tmp_path, 1, *told)
    assert [each.name for each in outcome.cards] == ["north", "south"]
    assert "odd connects with another card than it told before" in reasons[2]


def test_two_nodes_of_one_name_are_no_two_institutions(tmp_path: Path) -> None:
    north = card("north")
    with pytest.raises(QuorumLost, match=r"1 institution came .*expected 2"):
        distilled(tmp_path, 2, (north, north), (north, north))
    with pytest.raises(QuorumLost, match=r"2 nodes tell different cards of north"):
        distilled(tmp_path, 2, (north, north), (replace(north, classes=6), north))


@pytest.mark.parametrize(
    ("late", "says"),
    [
        (card("late"), ""),
        (replace(card("late"), classes=4), ""),
        (replace(card("late"), shape=WIDE), "late reads images of"),
        (replace(card("late"), classes=6), "late knows 5"),
        (
            replace(card("late"), numbers=tuple(Number(str(place)) for place in range(5))),
            "late predicts numbers",
        ),
        (replace(card("north"), classes=4), "another card than it told"),
        (replace(card("north"), class_names=tuple("43210")), "another card than it told"),
        (replace(card("north"), shape=WIDE), "another card than it told"),
    ],
)
def test_the_hub_admits_whom_the_student_was_built_for(late: Card, says: str) -> None:
    why = _misfit_at_hub(late, Expect(), [card("north"), card("south")]) or ""
    assert bool(why) == bool(says)
    assert says in why
