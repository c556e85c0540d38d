"""Runs of answers by the statistics of each batch: in one process, and over the wire."""

import copy
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import nn

from fedkd.client.release.gate import ReleaseGate
from fedkd.client.release.mode_table import build_release_mode
from fedkd.client.sessions.agent import Agent
from fedkd.client.sessions.recipe_renderer import RecipeGate
from fedkd.errors import NeedsError, SettingsError
from fedkd.loop import Distilled, Plan, distil, drive
from fedkd.methods import Method, cudfkd, ta_dfkd, zskt
from fedkd.models import ModuleTeacher, build_network
from fedkd.privacy import Policy
from fedkd.procedural import build_priors
from fedkd.protocol import RECIPE_VERSION, Answers, Ask, Card, Reply, Request, Signal
from fedkd.server.hub.hub import Hub
from tests.support.gated_institutions import Put

K, SHAPE, SOON = 4, (1, 8, 8), 20.0
LOGITS = frozenset({Signal.LOGITS})
POLICY = Policy(LOGITS, pull_back=True, batch_statistics=True)
PLAN = Plan(90, batch=20, steps=12, held_back=0.3, batch_statistics=True)


def network(seed: int) -> nn.Module:
    built = build_network("cnn", K, SHAPE, seed).train()
    for _ in range(10):
        built(torch.rand(32, *SHAPE, generator=torch.Generator().manual_seed(seed)) ** 3)
    return built.eval()


class Institutions:
    """Two, each behind its gate; keeps what they were asked."""

    def __init__(self, policy: Policy = POLICY) -> None:
        self.gates, self.requests, cards = dict[str, ReleaseGate](), list[Request](), list[Card]()
        for seed, name in enumerate(("east", "west")):
            release = build_release_mode(policy, ModuleTeacher(network(seed), K), None)
            card = Card(
                *(name, K, SHAPE, release.signals, release.pull_back),
                recipes=RECIPE_VERSION,
                batch_statistics=release.batch_statistics,
            )
            cards.append(card)
            self.gates[name] = ReleaseGate(policy, release, card)
        self.cards = tuple(cards)

    def put(self, request: Request) -> Answers:
        self.requests.append(request)
        each = dict.fromkeys(self.gates, request) if isinstance(request, Ask) else request
        replies = {name: self.gates[name].answer(own) for name, own in each.items()}
        assert all(isinstance(reply, Reply) for reply in replies.values())
        return replies  # type: ignore[return-value]


@contextmanager
def over_the_wire(institutions: Institutions) -> Iterator[tuple[tuple[Card, ...], Put]]:
    """A hub, and an agent in a thread for each gate."""
    with Hub("token") as hub:
        agents = [
            Agent(
                *(hub.address, "token", card, institutions.gates[card.name].answer),
                recipes=RecipeGate(institutions.gates[card.name].recipe_refusal),
            )
            for card in institutions.cards
        ]
        threads = [threading.Thread(target=agent.serve) for agent in agents]
        for thread in threads:
            thread.start()

        def put(request: Request) -> Answers:
            names = institutions.gates
            each = dict.fromkeys(names, request) if isinstance(request, Ask) else request
            answers, lost = hub.ask(each, SOON)
            assert not lost
            return answers

        try:
            yield tuple(hub.wait_for(len(agents), SOON)), put
        finally:
            for agent in agents:
                agent.close()
            for thread in threads:
                thread.join(SOON)


def run(method: Method, cards: tuple[Card, ...], put: Put, plan: Plan = PLAN) -> Distilled:
    student = copy.deepcopy(network(9))
    return drive(distil(student, method, cards, plan, build_priors("pink")), put)


METHODS = (cudfkd(), zskt(latent=4))


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_request_asks_for_them_and_the_bank_keeps_questions_whole(method: Method) -> None:
    institutions = Institutions()
    distilled = run(method, institutions.cards, institutions.put)
    for request in institutions.requests:
        each = [request] if isinstance(request, Ask) else list(request.values())
        assert all(one.batch_statistics for one in each)
    asked = [request.images for request in institutions.requests if isinstance(request, Ask)]
    assert len(distilled.bank) == sum(map(len, asked)) == 90
    lengths = {len(images) for images in asked}
    rng = torch.Generator().manual_seed(0)
    for _ in range(20):
        images, _ = distilled.bank.draw_question(rng)
        assert len(images) in lengths
        assert any(torch.equal(images, one) for one in asked if one.dtype == torch.uint8)


def test_without_it_nobody_is_asked_for_them() -> None:
    institutions = Institutions()
    run(cudfkd(), institutions.cards, institutions.put, replace(PLAN, batch_statistics=False))
    assert not any(one.batch_statistics for one in institutions.requests)  # type: ignore[union-attr]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_over_the_wire_the_student_is_the_same(method: Method) -> None:
    near = Institutions()
    one = run(method, near.cards, near.put)
    with over_the_wire(Institutions()) as (cards, put):
        assert all(card.batch_statistics for card in cards)
        other = run(method, tuple(sorted(cards, key=lambda card: card.name)), put)
    for name, value in one.student.state_dict().items():
        assert torch.equal(value, other.student.state_dict()[name])


def test_who_does_not_offer_them_is_not_asked() -> None:
    closed = Institutions(replace(POLICY, batch_statistics=False))
    with pytest.raises(NeedsError, match=r"policy.batch_statistics = true; east has not both"):
        run(cudfkd(), closed.cards, closed.put)
    assert closed.requests == []


@pytest.mark.parametrize(
    ("method", "cause"),
    [
        (cudfkd("pull_back", latent=4), "measures running statistics"),
        (ta_dfkd(bn_weight=0.0), "keeps a part of a batch"),
    ],
)
def test_methods_that_cannot_use_them_are_refused(method: Method, cause: str) -> None:
    institutions = Institutions(replace(POLICY, signals=LOGITS | {Signal.BN_GAP}))
    with pytest.raises(SettingsError, match=cause):
        run(method, institutions.cards, institutions.put)


@pytest.mark.parametrize("changes", [{"capacity": 40}, {"batch": 1}])
def test_a_batch_cannot_be_kept_in_parts(changes: dict[str, int]) -> None:
    with pytest.raises(SettingsError, match="belong to their whole batch"):
        replace(PLAN, **changes)  # type: ignore[arg-type]
