"""The same arguments give the same run; watching changes nothing, a late answer no schedule."""

import json
from dataclasses import replace

import pytest
import torch

from fedkd.core.augmentation import NO_AUGMENTATION, Augmentation
from fedkd.errors import QuorumLost
from fedkd.loop import Plan, distil, drive
from fedkd.methods import METHODS, Method, cudfkd, ways
from fedkd.procedural import build_priors
from fedkd.protocol import Answers, Refusal, Request
from tests.support.gated_institutions import (
    OPEN,
    GatedInstitutions,
    facts,
    keys,
    linear,
    make_known,
    mixed,
    run,
)


@pytest.mark.parametrize(
    "method",
    [
        *(mixed(gradient) for gradient in ways("cudfkd")),
        *(
            make_known(
                *(name,),
                **{"latent": 8, "warm_up": 0.3, "generated": 0.7, "bn_weight": 0.0},
                **{"steps_per_batch": 2, "capture_interval": 2},
            )
            for name in METHODS
            if name != "cudfkd"
        ),
    ],
    ids=lambda method: f"{method.name}-{method.gradient.name}",
)
def test_one_seed_gives_one_student_and_another_seed_another(method: Method) -> None:
    plan = Plan(120, 16, steps=30, student_batch=8)
    weights, questions = [], []
    for seed in (5, 5, 6):
        institutions = GatedInstitutions.for_method(method)
        torch.rand(len(weights))  # the global stream is nobody's seed
        distilled, _ = run(method, plan, institutions, seed)
        weights.append(torch.cat([p.flatten() for p in distilled.student.parameters()]))
        questions.append([key for ask in institutions.asks for key in keys(ask.images)])
    assert torch.equal(weights[0], weights[1])
    assert questions[0] == questions[1]
    assert not torch.equal(weights[0], weights[2])
    assert questions[0] != questions[2]


def test_augmented_images_are_learned_and_neither_asked_about_nor_kept() -> None:
    plain, augmented = GatedInstitutions(), GatedInstitutions()
    one, other = (
        run(cudfkd(), Plan(60, 16, steps=10, augmentation=augmentation), institutions)[0]
        for augmentation, institutions in (
            (NO_AUGMENTATION, plain),
            (Augmentation(1, True), augmented),
        )
    )
    for a, b in zip(plain.asks, augmented.asks, strict=True):
        assert torch.equal(a.images, b.images)
    assert torch.equal(one.bank.images, other.bank.images)
    weights = (torch.cat([w.flatten() for w in d.student.parameters()]) for d in (one, other))
    assert not torch.equal(*weights)


def test_watching_changes_nothing_and_tells_what_json_can_say() -> None:
    plan = Plan(100, 16, steps=20, student_batch=8)
    watched, events = run(mixed("pull_back"), plan)
    institutions, priors = GatedInstitutions(), build_priors("noise")
    loop = distil(linear(99), mixed("pull_back"), institutions.cards, plan, priors)
    unwatched = drive(loop, institutions.put)
    for one, other in zip(
        watched.student.parameters(), unwatched.student.parameters(), strict=True
    ):
        assert torch.equal(one, other)
    assert {event.kind for event in events} == {"asked", "generated", "held_back", "trained"}
    for event in events:
        assert json.loads(json.dumps(event.facts, allow_nan=False)) == event.facts


# --- institutions that are late or lost


@pytest.mark.parametrize("gradient", ["none", "pull_back", "finite_differences"])
def test_a_run_goes_on_without_who_is_late_by_the_same_schedules(gradient: str) -> None:
    plan = Plan(160, 10, steps=40, student_batch=8)
    institutions, count = GatedInstitutions(3), iter(range(10_000))

    def put(request: Request) -> Answers:
        answers, late = dict(institutions.put(request)), f"institution-{next(count) % 4}"
        answers.pop(late, None)  # every fourth question is answered by all
        return answers

    patchy, events = run(mixed(gradient), plan, institutions, put=put)
    whole, expected = run(mixed(gradient), plan, GatedInstitutions(3))
    assert (patchy.asked, patchy.student_steps) == (whole.asked, whole.student_steps) == (160, 40)
    for name in ("step", "curriculum_lambda"):
        assert facts(events, "trained", name) == facts(expected, "trained", name)
    assert len(set(facts(events, "trained", "curriculum_lambda"))) == 40
    weights = facts(events, "generated", "weights")
    assert weights == facts(expected, "generated", "weights")
    assert len(weights) == patchy.generator_steps
    if gradient != "none":
        adversarial = {each["adversarial_kl"] for each in weights}  # type: ignore[index]
        assert adversarial >= {0.0}
        assert len(adversarial) > 2


def test_who_never_answers_is_not_in_the_record() -> None:
    institutions = GatedInstitutions(2)

    def put(request: Request) -> Answers:
        return {n: r for n, r in institutions.put(request).items() if n == "institution-1"}

    _, events = run(cudfkd(), Plan(40, 10, steps=8, student_batch=8), institutions, put=put)
    last = facts(events, "trained", "difficulty_by_institution")[-1]
    assert isinstance(last, dict)
    assert last.keys() == {"institution-1"}


def test_a_question_that_nobody_answers_ends_the_run_in_one_line() -> None:
    institutions = GatedInstitutions(policy=replace(OPEN, samples=25))
    with pytest.raises(QuorumLost, match="nobody answered") as caught:
        run(cudfkd(), Plan(40, 10, steps=8, student_batch=8), institutions)
    assert "\n" not in str(caught.value)
    gates = institutions.gates
    assert [gate.totals.asked for gate in gates.values()] == [20, 20]
    assert isinstance(gates["institution-0"].answer(institutions.asks[-1]), Refusal)
