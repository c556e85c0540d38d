"""Output-diversified sampling, against the formula by which Co-Boosting moves its images."""

import math

import pytest
import torch
from torch import nn

from fedkd.core.schedules import FULL
from fedkd.core.source_types import Cost, Proposal, Turn
from fedkd.errors import SettingsError
from fedkd.loop import Plan, Progress, distil, drive
from fedkd.losses import target_class
from fedkd.methods import co_boosting
from fedkd.models import InProcess
from fedkd.procedural import build_priors
from fedkd.protocol import Ask, PullBack, as_float
from fedkd.synthesis import (
    PULL_BACK,
    STRAIGHT_THROUGH,
    OutputDiversified,
    PixelBatch,
    TrainedGenerator,
)
from fedkd.synthesis.output_diversified_sampling import DiversifiedSource
from tests.support.contexts import Clock, answered_by, context_of, drained

SHAPE, K = (1, 4, 4), 3


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, K))


NETWORKS = {name: network(i) for i, name in enumerate("ab")}
TEACHERS = InProcess(NETWORKS, SHAPE, K)
GENERATOR = TrainedGenerator(((FULL, target_class()),), PULL_BACK, PixelBatch(2), 0.05)
SPEC = OutputDiversified(GENERATOR, step=8 / 255, temperature=4.0)


def test_an_image_moves_one_step_along_the_slope_of_a_random_direction() -> None:
    method = co_boosting(latent=8)
    spec = method.sources["generator"].spec
    context = context_of(network(2), SHAPE, K)
    source = context.part(spec)
    assert isinstance(source, DiversifiedSource)
    images = torch.randint(0, 256, (5, *SHAPE), generator=rng(3), dtype=torch.uint8)
    proposal = Proposal(as_float(images).requires_grad_(), "generator")
    context.rng = rng(4)
    run = source.moved(answered_by(TEACHERS, proposal))
    request = next(run)
    assert not isinstance(request, Ask | Proposal)
    assert all(isinstance(each, PullBack) for each in request.values())
    with pytest.raises(StopIteration) as stop:
        run.send(TEACHERS.answer(request))
    x = as_float(images).requires_grad_()
    u = 2 * torch.rand((5, K), generator=rng(4)) - 1
    mean = (NETWORKS["a"](x) + NETWORKS["b"](x)) / 2
    (u * (mean / 4).softmax(1)).sum().backward()
    assert x.grad is not None
    expected = (images.float() + 2 * x.grad.sign()).clamp(0, 255)
    assert torch.equal(stop.value.value.float(), expected)


def test_a_batch_is_moved_and_proposed_again_before_its_source_learns_from_it() -> None:
    context = context_of(network(2), SHAPE, K)
    source = context.part(SPEC)
    assert source.source is context.part(GENERATOR)
    proposal = source.propose(Turn(8, rng(1), 0.0))
    assert proposal is not None
    follow_ups = source.learn(answered_by(TEACHERS, proposal))
    assert follow_ups is not None
    slope = next(follow_ups)
    assert not isinstance(slope, Proposal)
    further = follow_ups.send(TEACHERS.answer(slope))
    assert isinstance(further, Proposal)
    assert (further.origin, len(further.images)) == ("neighbours", 8)
    assert further.labels is None
    assert source.steps == 0
    pull = follow_ups.send(answered_by(TEACHERS, further).answers)
    assert not isinstance(pull, Proposal)
    with pytest.raises(StopIteration):
        follow_ups.send(TEACHERS.answer(pull))
    assert source.steps == 1


def test_it_costs_a_question_and_a_pull_back_more_while_its_source_learns() -> None:
    assert GENERATOR.cost == Cost(1, 1)
    assert SPEC.cost == Cost(2, 2)
    assert SPEC.needs == GENERATOR.needs
    assert SPEC.gradient is PULL_BACK
    clock = Clock(Plan(64, 8))
    source = context_of(network(2), SHAPE, K, clock=clock).part(SPEC)
    assert source.cost == Cost(2, 2)
    clock.asked = 64
    assert source.cost == Cost(1, 0)
    proposal = source.propose(Turn(8, rng(1), 0.0))
    assert proposal is not None
    assert drained(source.learn(answered_by(TEACHERS, proposal)), TEACHERS) == []


def test_its_state_is_that_of_its_source() -> None:
    one, other = (context_of(network(2), SHAPE, K).part(SPEC) for _ in range(2))
    proposal = one.propose(Turn(8, rng(1), 0.0))
    assert proposal is not None
    drained(one.learn(answered_by(TEACHERS, proposal)), TEACHERS)
    other.restore(one.state())
    assert other.steps == 1
    first, second = (each.propose(Turn(8, rng(2), 0.0)) for each in (one, other))
    assert first is not None
    assert second is not None
    assert torch.equal(first.images, second.images)


def test_a_run_asks_twice_about_each_image_and_pulls_back_twice() -> None:
    events: list[Progress] = []
    method, student = co_boosting(steps_per_batch=2, latent=8), network(2)
    plan = Plan(96, 8, 12, student_batch=8)
    loop = distil(
        *(student, method, TEACHERS.cards, plan, build_priors("noise")), watch=events.append
    )
    distilled = drive(loop, TEACHERS.answer)
    assert (distilled.asked, distilled.generator_steps, distilled.pulled_back) == (96, 6, 96)
    origins = [p.facts["origin"] for p in events if p.kind == "asked"]
    assert origins == ["generator", "neighbours"] * 6


@pytest.mark.parametrize(
    ("step", "temperature"), [(0.0, 4.0), (1.1, 4.0), (0.1, 0.0), (0.1, math.inf)]
)
def test_numbers_out_of_range_are_refused(step: float, temperature: float) -> None:
    with pytest.raises(SettingsError, match=r"expected a step in \(0, 1\] and a temperature > 0"):
        OutputDiversified(GENERATOR, step, temperature)


def test_a_source_that_pulls_nothing_back_is_refused() -> None:
    source = TrainedGenerator(((FULL, target_class()),), STRAIGHT_THROUGH, PixelBatch())
    with pytest.raises(SettingsError, match=r'needs the slope of answers; .* "pull_back" for its'):
        OutputDiversified(source, 0.1, 4.0)
