"""What an institution says of itself cannot end a coordinator: memory, and a fusion that fails."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest

from fedkd.aggregation.fusion_of_cards import build_fusion
from fedkd.aggregation.fusion_rules import RuleFusion
from fedkd.client.sessions.agent import Agent
from fedkd.errors import SettingsError
from fedkd.experiment import parse_experiment
from fedkd.loop import Plan
from fedkd.methods import cudfkd
from fedkd.models import build_network
from fedkd.procedural import build_priors
from fedkd.process.memory_estimate import check_memory
from fedkd.protocol import Card, Signal
from fedkd.server.coordinator import Coordinator, Ingredients, ingredients
from fedkd.server.hub.hub import Hub
from fedkd.server.remote_institutions import RemoteInstitutions
from tests.support.hub_clients import QUICK, SOON, TOKEN, card, honest_answer, names, wait_until

LOGITS = frozenset({Signal.LOGITS})


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (Card("big", 10, (64, 512, 512), LOGITS), r"the bank of 12,800 .* would take 215 GB"),
        (Card("many", 10_000, (1, 8, 8), LOGITS), r"fusing answers of 50 .* would take 80.3 GB"),
        (Card("huge", 65_536, (1, 8, 8), LOGITS), "65536 classes, expected 1 to 10000"),
    ],
)
def test_memory_is_estimated_before_it_is_allocated(
    one: Card, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedkd.process.memory_estimate.machine_memory", lambda: 16 * 10**9)
    cards = [replace(one, name=f"{one.name}-{number}") for number in range(50)]
    with pytest.raises(SettingsError, match=words):
        ingredients(parse_experiment({"name": "small"}), cards)


def test_all_needs_together_are_held_against_the_memory() -> None:
    check_memory({"one": 6, "other": 4}, memory=10)
    with pytest.raises(SettingsError, match="one would take 6 bytes of 11 bytes in all"):
        check_memory({"one": 6, "other": 5}, memory=10)


@dataclass(frozen=True, eq=False)
class Choosy:
    """An aggregation that cannot fuse what one institution answers."""

    def rule_for(self, planned: str) -> str:
        return planned

    def with_rule(self, rule: str) -> "Choosy":
        return self

    def build(self, context: object) -> object:
        from fedkd.aggregation.fixed_rule_aggregation import RuleAggregation

        class Part(RuleAggregation):
            def fusion(self, cards: Sequence[Card]) -> RuleFusion:
                if any(each.name == "odd" for each in cards):
                    raise RuntimeError("Overflow when unpacking long long")
                return build_fusion("mean_probabilities", cards)

        return Part("mean_probabilities", None)


def test_a_joiner_that_cannot_be_fused_is_refused_alone_and_the_run_goes_on() -> None:
    method = replace(cudfkd("none", warm_up=1.0, generated=0.0), aggregation=Choosy())
    plan = Plan(budget=16, batch=4, steps=4, student_batch=4)
    run = Ingredients(build_network("mlp", 5, (3, 2, 2), 0), method, plan, build_priors("noise"))
    served: dict[str, str] = {}
    with Hub(TOKEN) as hub:
        there = {n: Agent(hub.address, TOKEN, card(n), honest_answer, reconnect=QUICK) for n in
                 ("north", "odd")}  # fmt: skip
        threads = {
            name: threading.Thread(target=lambda n=name: served.update({n: there[n].serve()}))
            for name in there
        }
        threads["north"].start()
        participants = RemoteInstitutions(hub, run, hub.wait_for(1, SOON), SOON)
        coordinator = Coordinator(run, participants.cards, participants.answer)
        participants.cards = coordinator.cards
        participants.fusion_failure = coordinator.fusion_failure
        threads["odd"].start()
        wait_until(lambda: "odd" in names(hub))
        assert coordinator.finish().asked == 16
        threads["odd"].join(SOON)
        assert "cannot be fused with those of the others: Overflow" in served["odd"]
        assert [each.name for each in coordinator.cards] == ["north"]
    threads["north"].join(SOON)
