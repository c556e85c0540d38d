"""Surrogate steps: a generator learns from students, and institutions are asked nothing more."""

import copy
import math
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fedkd.core.schedules import FULL
from fedkd.core.source_types import Turn
from fedkd.errors import SettingsError
from fedkd.loop import Distillation, Plan, Progress, distil, drive
from fedkd.losses import Batch, class_balance, target_class
from fedkd.methods import Method, disguide, ideal
from fedkd.models import Generator, InProcess
from fedkd.procedural import build_priors
from fedkd.protocol import Answers, Ask, Request, Signal
from fedkd.student.peer_students import Peers
from fedkd.synthesis import (
    PULL_BACK,
    STRAIGHT_THROUGH,
    STUDENT,
    Drawn,
    GeneratorNetwork,
    Gradient,
    SurrogateTrained,
)
from fedkd.synthesis.generator_parameterisation import GeneratorParameterisation
from fedkd.synthesis.surrogate_trained_source import SurrogateSource, vote
from tests.support.contexts import Clock, Recorded, answered_by, context_of

SHAPE, CLASSES = (1, 6, 6), 4


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.Tanh(), nn.Linear(16, CLASSES))


TEACHERS = InProcess({"a": network(7), "b": network(8)}, SHAPE, CLASSES)


def run_of(method: Method, plan: Plan) -> tuple[Distillation, list[Request], list[Progress]]:
    requests: list[Request] = []
    events: list[Progress] = []

    def put(request: Request) -> Answers:
        requests.append(request)
        return TEACHERS.answer(request)

    run = Distillation(
        *(network(2), method, TEACHERS.cards, plan, build_priors("noise"), 0), watch=events.append
    )
    drive(run.requests(), put)
    return run, requests, events


def asks_of(requests: list[Request]) -> list[Ask]:
    return [request for request in requests if isinstance(request, Ask)]


# --- IDEAL: the student is the surrogate


def test_ideal_asks_once_and_nobody_while_its_generator_learns() -> None:
    # Slow enough that no two images are the same: a repeat is asked about as one sample fewer.
    method = ideal(latent=8, generator_steps=25, generator_rate=0.002)
    run, requests, _ = run_of(method, Plan(80, 8, 10, student_batch=8))
    asks = asks_of(requests)
    assert len(requests) == len(asks) == 10
    assert all(a.signals == {Signal.LOGITS} and not a.exact for a in asks)
    assert run.generator_steps == 250
    assert run.pulled_back == 0


def test_surrogate_steps_make_the_student_see_the_class_targets() -> None:
    sure = []
    for steps in (1, 40):
        events: list[Progress] = []
        loop = distil(
            *(network(2), ideal(latent=8, generator_steps=steps, generator_rate=0.05)),
            *(TEACHERS.cards, Plan(8, 8, 0), build_priors("noise")),
            watch=events.append,
        )
        drive(loop, TEACHERS.answer)
        (terms,) = (p.facts["terms"] for p in events if p.kind == "generated")
        sure.append(terms["target_class"])  # type: ignore[index]
    assert sure[1] < sure[0] - 0.1


def test_ideal_asks_about_the_images_of_least_loss_and_leaves_latents_as_drawn() -> None:
    method = ideal(latent=8, generator_steps=30, generator_rate=0.2)
    (spec,) = (s.spec for n, s in method.sources.items() if n == "generator")
    plan = Plan(8, 8, 0)
    source = context_of(network(2), SHAPE, CLASSES, plan=plan, clock=Clock(plan)).part(spec)
    assert isinstance(source, SurrogateSource)
    losses: list[float] = []
    seen: list[Tensor] = []
    total, draw = source.total, source.target.draw

    def noted(terms: Mapping[str, float], progress: float) -> float:
        losses.append(total(terms, progress))
        return losses[-1]

    def drawn(count: int, stream: torch.Generator, learning: bool) -> Drawn:
        found = draw(count, stream, learning)
        seen.append(found.images.detach().clone())
        return found

    source.total, source.target.draw = noted, drawn  # type: ignore[method-assign]
    proposal = source.propose(Turn(8, rng(0), 0.0))
    assert proposal is not None
    best = min(range(30), key=losses.__getitem__)
    assert best < 29, "at such a rate the last step is not the best"
    assert torch.equal(proposal.images, seen[best])
    module = source.target.module  # type: ignore[attr-defined]
    assert not module.latents.requires_grad
    assert module.latents.grad is None
    assert all(weight.grad is not None for weight in module.generator.parameters())


def surrogate(steps: int = 3, until: float = 1.0, **changes: object) -> SurrogateSource:
    spec = SurrogateTrained(
        ((FULL, class_balance()),), STUDENT, GeneratorNetwork(5), until=until, surrogate_steps=steps
    )
    return context_of(network(2), SHAPE, CLASSES, **changes).part(spec)


def test_steps_are_taken_once_in_a_turn_and_a_batch_is_drawn_anew_where_none_was_new() -> None:
    clock, record = Clock(Plan(64, 8)), Recorded()
    source = surrogate(clock=clock, record=record)
    turn = Turn(8, rng(1), 0.25)
    first, second = source.propose(turn), source.propose(turn)
    assert first is not None
    assert second is not None
    assert not torch.equal(first.images, second.images)
    assert not first.images.requires_grad
    assert source.steps == 3
    clock.asked = 8
    source.propose(turn)
    assert source.steps == 6
    assert [(kind, facts["step"]) for kind, facts in record.events] == [
        ("generated", 3),
        ("generated", 6),
    ]


def test_nothing_is_learned_from_answers_nor_after_its_share_of_the_questions() -> None:
    clock = Clock(Plan(64, 8))
    source = surrogate(clock=clock, until=0.5)
    proposal = source.propose(Turn(8, rng(1), 0.0))
    assert proposal is not None
    assert source.learn(answered_by(TEACHERS, proposal)) is None
    assert source.cost.asked == 1
    assert source.cost.pulled_back == 0
    clock.asked = 32
    source.propose(Turn(8, rng(1), 0.5))
    assert source.steps == 3


@pytest.mark.parametrize(
    ("steps", "gradient"), [(0, STUDENT), (1, PULL_BACK), (1, STRAIGHT_THROUGH)]
)
def test_surrogate_steps_that_would_ask_somebody_are_refused(
    steps: int, gradient: Gradient
) -> None:
    with pytest.raises(SettingsError, match='expected >= 1, and "student", which alone asks nob'):
        SurrogateTrained(
            ((FULL, target_class()),), gradient, GeneratorNetwork(5), surrogate_steps=steps
        )


# --- DisGUIDE: all students are the surrogate


def softmax(logits: list[float]) -> list[float]:
    e = [math.exp(x) for x in logits]
    return [x / sum(e) for x in e]


def disguide_of_the_paper(students: list[list[list[float]]], diversity: float) -> float:
    """L_G, image by image and class by class, of students' logits (M, B, K)."""
    beliefs = [[softmax(image) for image in student] for student in students]
    many, images, classes = len(beliefs), len(beliefs[0]), len(beliefs[0][0])
    apart, mean = 0.0, [0.0] * classes
    for b in range(images):
        for c in range(classes):
            each = [belief[b][c] for belief in beliefs]
            centre = sum(each) / many
            apart += math.sqrt(sum((x - centre) ** 2 for x in each) / (many - 1))
            mean[c] += centre / images
    return -apart / (images * classes) + diversity * sum(p * math.log(p) for p in mean)


def generator_of(method: Method) -> SurrogateTrained:
    spec = method.sources["generator"].spec
    assert isinstance(spec, SurrogateTrained)
    return spec


@pytest.mark.parametrize("students", [2, 3])
def test_the_objective_of_disguide_is_that_of_the_paper(students: int) -> None:
    method = disguide(students=students)
    peers = method.student["peers"]
    logits = 2 * torch.randn(students, 6, CLASSES, generator=rng(3)).double()
    batch = Batch(
        *(torch.zeros(6, *SHAPE), {Signal.LOGITS: vote(logits)}, logits[0]),
        readings={id(peers): logits},
    )
    terms = generator_of(method).terms
    total = sum(w(0.5) * float(term.value(batch)) for w, term in terms)
    assert total == pytest.approx(disguide_of_the_paper(logits.tolist(), 0.2))


def test_its_generator_takes_the_gradient_of_that_objective() -> None:
    method, student = disguide(latent=5), network(2)
    context = context_of(student, SHAPE, CLASSES)
    (peer,) = context.part(method.student["peers"]).networks  # type: ignore[attr-defined]
    source = context.part(generator_of(method))
    assert isinstance(source.target, GeneratorParameterisation)
    before: Generator = copy.deepcopy(source.target.network)
    taken: dict[str, Tensor] = {}
    for name, p in source.target.network.named_parameters():
        p.register_post_accumulate_grad_hook(
            lambda p, name=name: taken.update({name: p.grad.clone()})  # type: ignore[misc]
        )
    source.train(Turn(8, rng(5), 0.0))
    images = before.train()(torch.randn(8, 5, generator=rng(5)))
    p = torch.stack([n(images).softmax(1) for n in (student, peer)])
    mean = p.mean((0, 1))
    (-p.std(0).mean() + 0.2 * (mean * mean.log()).sum()).backward()
    for name, weight in before.named_parameters():
        assert weight.grad is not None
        assert torch.allclose(taken[name], weight.grad, atol=1e-7)
    assert max(float(slope.abs().max()) for slope in taken.values()) > 1e-4


def test_students_are_asked_and_institutions_are_not() -> None:
    run, requests, events = run_of(
        disguide(latent=8, generator_steps=3), Plan(80, 8, 10, student_batch=8)
    )
    assert len(requests) == 10
    assert all(isinstance(r, Ask) and r.signals == {Signal.LOGITS} for r in requests)
    assert (run.generator_steps, run.pulled_back) == (30, 0)
    terms = [p.facts["terms"] for p in events if p.kind == "generated"]
    assert all(t.keys() == {"disagreement", "class_balance"} for t in terms)  # type: ignore[attr-defined]


def test_the_vote_is_the_mean_of_beliefs() -> None:
    logits = torch.randn(3, 5, CLASSES, generator=rng(0)).double()
    assert torch.allclose(vote(logits).exp(), logits.softmax(2).mean(0))


def test_voters_stand_for_the_teachers_though_no_term_reads_them() -> None:
    student, peers, record = network(2), Peers(2), Recorded()
    context = context_of(student, SHAPE, CLASSES, record=record)
    spec = SurrogateTrained(((FULL, class_balance()),), STUDENT, GeneratorNetwork(5), voters=peers)
    source = context.part(spec)
    assert isinstance(source.target, GeneratorParameterisation)
    images = copy.deepcopy(source.target.network).train()(torch.randn(8, 5, generator=rng(5)))
    source.train(Turn(8, rng(5), 0.0))
    everybody = [student, *context.part(peers).networks]
    with torch.no_grad():
        mean = torch.stack([n(images).softmax(1) for n in everybody]).mean((0, 1))
    ((_, facts),) = record.events
    assert facts["terms"]["class_balance"] == pytest.approx(float((mean * mean.log()).sum()))
    alone = context_of(student, SHAPE, CLASSES, record=Recorded())
    alone.part(replace(spec, voters=None)).train(Turn(8, rng(5), 0.0))
    ((_, other),) = alone.record.events  # type: ignore[attr-defined]
    assert other["terms"]["class_balance"] != pytest.approx(facts["terms"]["class_balance"])
