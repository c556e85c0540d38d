"""What the loop asks: never over budget, never twice, only what its sources declare."""

from collections.abc import Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fedkd.core.schedules import constant
from fedkd.loop import PAUSE, Distillation, Plan, Progress, distil, drive
from fedkd.methods import Method, Share, cudfkd
from fedkd.models import InProcess
from fedkd.procedural import Shape, UniformNoise, build_priors
from fedkd.protocol import Answers, Ask, Request, Signal
from fedkd.synthesis import GRADIENTS, Evolution, ProceduralPriors
from tests.support.gated_institutions import (
    FEW,
    TINY,
    GatedInstitutions,
    facts,
    keys,
    linear,
    mixed,
    pulled_back_keys,
    rng,
    run,
)

LOGITS, BN_GAP = Signal.LOGITS, Signal.BN_GAP


@pytest.mark.parametrize("gradient", sorted(GRADIENTS))
@given(
    budget=st.integers(1, 40),
    batch=st.integers(1, 12),
    steps=st.integers(0, 9),
    asking=st.sampled_from([0.0, 0.6, 1.0]),
    seed=st.integers(0, 99),
)
@settings(max_examples=10, deadline=None)
def test_institutions_are_asked_about_the_budget_and_nothing_beyond(
    gradient: str, budget: int, batch: int, steps: int, asking: float, seed: int
) -> None:
    institutions, most = GatedInstitutions(), []
    gates = institutions.gates.values()
    plan = Plan(budget, batch, steps, student_batch=4, asking=asking)
    method = mixed(gradient, warm_up=0.0 if seed % 2 else 0.3)

    def put(request: Request) -> Answers:
        answers = institutions.put(request)
        most.append(max(gate.totals.asked for gate in gates))
        return answers

    distilled, _ = run(method, plan, institutions, seed, put)
    assert max(most) == budget
    for gate in gates:
        assert gate.totals.asked == distilled.asked == budget
        assert gate.totals.pulled_back == distilled.pulled_back <= budget
        assert gate.totals.refused == 0
    assert distilled.student_steps == steps


@pytest.mark.parametrize("gradient", sorted(GRADIENTS))
def test_no_image_is_asked_about_twice_but_to_be_pulled_back(gradient: str) -> None:
    institutions = GatedInstitutions()
    run(mixed(gradient), Plan(300, 16, steps=60, student_batch=8), institutions)
    asked = [key for ask in institutions.asks for key in keys(ask.images)]
    assert len(set(asked)) == len(asked) == 300
    pulled = pulled_back_keys(institutions.requests)
    assert len(set(pulled)) == len(pulled)
    assert set(pulled) <= set(asked)
    assert bool(pulled) == (gradient == "pull_back")


class FewImages:
    """A prior of uniform noise, of which there are only some images."""

    def __init__(self, many: int) -> None:
        self.images = UniformNoise().draw(many, TINY, rng(0))

    def draw(self, count: int, shape: Shape, rng: torch.Generator) -> Tensor:
        return self.images[torch.randint(len(self.images), (count,), generator=rng)]


PRIORS = ProceduralPriors()
FROM_PRIORS = {"prior": Share(PRIORS, constant(1.0))}
HALF_EVOLVED = {**FROM_PRIORS, "evolution": Share(Evolution(PRIORS), constant(1.0))}


def test_a_source_that_repeats_itself_is_asked_about_its_images_once_and_the_student_learns() -> (
    None
):
    institutions, method, events = GatedInstitutions(), Method("alone", "none", FROM_PRIORS), []
    plan, few = Plan(500, 8, steps=5), {"few": FewImages(20)}
    loop = distil(linear(99), method, institutions.cards, plan, few, watch=events.append)
    distilled = drive(loop, institutions.put)
    asked = [key for ask in institutions.asks for key in keys(ask.images)]
    assert len(set(asked)) == len(asked) == distilled.asked <= 20
    assert distilled.student_steps == 5
    (warned,) = [event.facts["text"] for event in events if event.kind == "warned"]
    assert f"no more is asked after {len(asked)} samples: prior drew only" in str(warned)


def test_a_run_that_has_no_more_to_ask_is_resumed_without_another_question() -> None:
    method, plan = Method("alone", "none", FROM_PRIORS), Plan(500, 8, steps=40, asking=0.5)
    few, weights = {"few": FewImages(20)}, []
    for kept in (False, True):
        institutions = GatedInstitutions()
        first = Distillation(linear(99), method, institutions.cards, plan, few)
        loop, answers = first.requests(), None
        while (request := loop.send(answers)) != PAUSE:
            answers = institutions.put(request)
        asked, state = len(institutions.asks), first.state()
        if kept:
            again = Distillation(linear(98), method, institutions.cards, plan, few)
            again.restore(state)
            loop = again.requests()
        distilled = drive(loop, institutions.put)
        assert (len(institutions.asks), distilled.student_steps) == (asked, 40)
        weights.append(torch.cat([p.flatten() for p in distilled.student.parameters()]))
    assert torch.equal(*weights)


def test_a_source_that_repeats_itself_gives_its_turns_to_the_others() -> None:
    institutions, events = GatedInstitutions(), list[Progress]()
    method, plan = Method("both", "none", HALF_EVOLVED), Plan(200, 4, steps=5)
    few = {"few": FewImages(20)}
    loop = distil(linear(99), method, institutions.cards, plan, few, watch=events.append)
    distilled = drive(loop, institutions.put)
    asked = [key for ask in institutions.asks for key in keys(ask.images)]
    assert distilled.asked == len(set(asked)) == len(asked) == 200
    origins = facts(events, "asked", "origin")
    assert 5 <= origins.count("few") <= 20  # half of the turns are the prior's, but it has no more
    assert set(origins[-20:]) == {"evolution"}


def test_only_declared_signals_are_asked_for_and_only_where_something_learns() -> None:
    norms = {name: nn.Sequential(nn.BatchNorm2d(1), linear(1)) for name in ("east", "west")}
    at_hand = InProcess(norms, TINY, FEW)
    asks: list[Ask] = []

    def put(request: Request) -> Answers:
        if isinstance(request, Ask):
            asks.append(request)
        return at_hand.answer(request)

    method, plan = mixed("pull_back", bn_weight=1.0), Plan(200, 10, steps=40, student_batch=8)
    events: list[Progress] = []
    priors = build_priors("noise")
    drive(distil(linear(9), method, at_hand.cards, plan, priors, watch=events.append), put)
    origins = facts(events, "asked", "origin")
    assert {"generator", "noise", "evolution"} == set(origins)
    for ask, origin in zip(asks, origins, strict=True):
        trains = origin == "generator"
        assert ask.signals == ({LOGITS, BN_GAP} if trains else {LOGITS})
        assert ask.exact == trains


def test_the_loop_pulls_back_signals_that_were_asked_for_and_no_other() -> None:
    institutions = GatedInstitutions()
    run(mixed("pull_back"), Plan(100, 10, steps=10, student_batch=8), institutions)
    pulled = [each for each in institutions.requests if isinstance(each, Mapping)]
    assert pulled
    assert {frozenset(of.cotangents) for each in pulled for of in each.values()} == {
        frozenset({LOGITS})
    }


def test_a_batch_of_one_generated_image_can_be_learned_from() -> None:
    distilled, _ = run(cudfkd("pull_back", bn_weight=0.0, latent=8), Plan(3, 1, steps=3))
    assert distilled.generator_steps == 3
