"""The student's steps: as many as planned, spread over the questions, weighted by difficulty."""

import pytest
import torch

from fedkd.loop import PAUSE, Plan, Progress, distil
from fedkd.methods import cudfkd
from fedkd.procedural import build_priors
from fedkd.protocol import Answers, Request
from tests.support.gated_institutions import (
    GatedInstitutions,
    by_hand,
    facts,
    linear,
    mixed,
    run,
)


@pytest.mark.parametrize("asking", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("steps", [0, 1, 7, 33, 301])
def test_the_student_takes_the_steps_of_the_plan_and_pauses_between(
    asking: float, steps: int
) -> None:
    institutions, student, taken = GatedInstitutions(), linear(99), list[int]()
    student.register_forward_pre_hook(
        lambda module, _: taken.append(1) if module.training else None
    )
    plan, priors = Plan(50, 16, steps, 4, asking=asking), build_priors("noise")
    at_pause: list[int] = []

    def put(request: Request) -> Answers:
        if request == PAUSE:
            at_pause.append(len(taken))
            return {}
        assert not at_pause  # all is asked before the first pause
        return institutions.put(request)

    distilled = by_hand(distil(student, cudfkd(), institutions.cards, plan, priors), put)
    assert len(taken) == distilled.student_steps == steps
    while_asking = round(asking * steps)
    assert at_pause[:1] == ([while_asking] if while_asking < steps else [])
    assert len(at_pause) <= 101
    assert not student.training


def test_driving_hands_no_pause_to_the_institutions() -> None:
    institutions = GatedInstitutions()  # whose `put` takes none
    plan = Plan(20, 10, steps=50, student_batch=4, asking=0.0)
    distilled, _ = run(cudfkd(), plan, institutions)
    assert distilled.student_steps == 50
    assert len(institutions.requests) == 2


# --- easy to hard


def test_a_sample_with_a_loss_beyond_lambda_teaches_nothing() -> None:
    plan = Plan(40, 10, steps=8, student_batch=8)
    before = linear(99)
    for lambda_, moved in ((1e-9, False), (1e9, True)):
        method = cudfkd(curriculum="hard", lambda_start=lambda_, lambda_stop=lambda_)
        distilled, events = run(method, plan)
        assert set(facts(events, "trained", "weight")) == {float(moved)}
        for one, other in zip(distilled.student.parameters(), before.parameters(), strict=True):
            assert torch.equal(one, other) != moved


def ramped(events: list[Progress]) -> list[tuple[int, float]]:
    """Samples asked before the question of each generator step, and its adversarial weight."""
    found, before = [], 0
    for event in events:
        if event.kind == "asked":
            before = int(str(event.facts["asked"])) - int(str(event.facts["count"]))
        if event.kind == "generated":
            weights = event.facts["weights"]
            assert isinstance(weights, dict)
            found.append((before, weights["adversarial_kl"]))
    return found


@pytest.mark.parametrize("warm_up", [0.0, 0.5])
@pytest.mark.parametrize("curriculum", ["log", "none"])
def test_the_generators_ramp_follows_its_own_questions_whatever_the_students_curriculum(
    curriculum: str, warm_up: float
) -> None:
    plan = Plan(320, 10, steps=40, student_batch=8)
    _, events = run(mixed("pull_back", warm_up=warm_up, curriculum=curriculum), plan)
    weights = ramped(events)
    assert {weight for _, weight in weights} > {0.0, 62.0}
    for before, weight in weights:
        own = (before / 320 - warm_up) / (1 - warm_up)
        assert weight == pytest.approx(62 * min(max((own - 0.25) * 2, 0), 1))
    assert (set(facts(events, "trained", "weight")) == {1.0}) == (curriculum == "none")
