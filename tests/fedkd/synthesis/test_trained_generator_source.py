"""Generator training: what a source asks, its step by what was answered, and what it remembers."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fedkd.aggregation import RuleFusion
from fedkd.core.interfaces import Context
from fedkd.core.run_plan import Plan
from fedkd.core.schedules import FULL, Schedule, constant, ramp
from fedkd.core.source_types import AnsweredBatch, Cost, Proposal, Turn
from fedkd.errors import SettingsError
from fedkd.losses import (
    Batch,
    Term,
    adversarial_kl,
    bn_gap,
    jensen_shannon,
    one_hot,
    target_class,
)
from fedkd.models import InProcess, ModuleTeacher, build_network
from fedkd.protocol import Ask, PullBack, Signal
from fedkd.synthesis import (
    GRADIENTS,
    PULL_BACK,
    STRAIGHT_THROUGH,
    STUDENT,
    GeneratorNetwork,
    Gradient,
    LatentBatch,
    ParameterisationSpec,
    PixelBatch,
    TrainedGenerator,
    TrainedSource,
    forward_differences,
)
from fedkd.synthesis.generator_parameterisation import GeneratorParameterisation
from fedkd.synthesis.pixel_and_latent_parameterisation import InvertedPixels
from tests.support.contexts import Clock, Recorded, answered_by, context_of, drained

SHAPE, K, B = (1, 6, 6), 4, 8
LOGITS, BN_GAP = Signal.LOGITS, Signal.BN_GAP


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.Tanh(), nn.Linear(16, K))


NETWORKS = {"a": network(7), "b": network(8)}
TEACHERS = InProcess(NETWORKS, SHAPE, K)


def spec(
    *terms: Term,
    gradient: Gradient = PULL_BACK,
    target: ParameterisationSpec = PixelBatch(1000),  # noqa: B008 -- frozen
    rate: float = 0.05,
    until: float = 1.0,
) -> TrainedGenerator:
    weighted = tuple((FULL, term) for term in terms or (target_class(),))
    return TrainedGenerator(weighted, gradient, target, rate, until=until)


def context(**changes: object) -> Context:
    return context_of(network(2), SHAPE, K, **changes)


def propose(source: TrainedSource, seed: int = 1) -> Proposal:
    proposal = source.propose(Turn(B, rng(seed), 0.0))
    assert proposal is not None
    return proposal


def step(source: TrainedSource, seed: int = 1) -> AnsweredBatch:
    answered = answered_by(TEACHERS, propose(source, seed))
    drained(source.learn(answered), TEACHERS)
    return answered


def test_a_step_through_a_teacher_in_this_process_is_the_step_that_asks_and_pulls_back() -> None:
    module = build_network("cnn", K, (1, 8, 8), 0)
    asked = InProcess({"a": module}, (1, 8, 8), K)
    settings = [
        spec(one_hot(), bn_gap(), adversarial_kl(), target=GeneratorNetwork(5), rate=1e-3)
        for _ in "ab"
    ]
    student = build_network("cnn", K, (1, 8, 8), 1)
    direct, remote = (context_of(student, (1, 8, 8), K).part(s) for s in settings)
    turn = Turn(B, rng(1), 0.0)
    left = direct.train_directly(turn, ModuleTeacher(module, K), None)
    proposal = remote.propose(Turn(B, rng(1), 0.0))
    assert proposal is not None
    # Asked about as they are, not as bytes: then only the order of sums is another.
    answered = replace(answered_by(asked, proposal), images=proposal.images.detach())
    answers = asked.answer(Ask(answered.images, proposal.signals, exact=True))
    drained(remote.learn(replace(answered, answers=answers)), asked)
    pairs = zip(*(s.optimizer.param_groups[0]["params"] for s in (direct, remote)), strict=True)
    assert all(torch.allclose(a, b, atol=2e-5) for a, b in pairs)
    assert direct.steps == remote.steps == 1
    assert left.finished
    assert torch.equal(left.images, proposal.images)


# --- what it asks


def test_it_asks_for_the_signals_of_its_terms_and_for_pull_backs_where_it_must() -> None:
    exact = spec(target_class(), bn_gap())
    assert set(exact.needs.signals) == {LOGITS, BN_GAP}
    assert exact.needs.signals[BN_GAP] == "term bn_gap"
    assert exact.needs.pull_back
    student = spec(gradient=STUDENT)
    assert set(student.needs.signals) == {LOGITS}
    assert not student.needs.pull_back


@pytest.mark.parametrize(
    ("gradient", "cost"),
    [
        (PULL_BACK, Cost(1, 1)),
        (STUDENT, Cost(1, 0)),
        (STRAIGHT_THROUGH, Cost(1, 0)),
        (forward_differences(3), Cost(4, 0)),
    ],
    ids=lambda x: x.name if isinstance(x, Gradient) else "",
)
def test_it_costs_what_it_asks_while_it_learns(gradient: Gradient, cost: Cost) -> None:
    settings, clock = spec(gradient=gradient, until=0.5), Clock(Plan(64, B))
    source = context(clock=clock).part(settings)
    assert settings.cost == source.cost == cost
    answered = answered_by(TEACHERS, propose(source))
    asked = drained(source.learn(answered), TEACHERS)
    assert sum(isinstance(request, Ask) for request in asked) == cost.asked - 1
    pulled = [r for r in asked if not isinstance(r, Ask | Proposal)]
    assert len(pulled) == cost.pulled_back
    for request in pulled:
        assert set(request) == set(NETWORKS)
        assert all(isinstance(each, PullBack) for each in request.values())
    clock.asked = 32
    assert source.cost == Cost(1, 0)


def test_once_it_learns_no_more_it_asks_for_answers_alone_and_takes_no_step() -> None:
    clock = Clock(Plan(64, B))
    settings = spec(target_class(), bn_gap(), target=GeneratorNetwork(5, True), until=0.5)
    source = context(clock=clock).part(settings)
    learning = propose(source)
    assert learning.images.requires_grad
    assert learning.signals == {LOGITS, BN_GAP}
    clock.asked = 32
    after = propose(source)
    assert (after.origin, after.signals) == ("generator", {LOGITS})
    assert not after.images.requires_grad
    assert after.class_targets is not None
    assert source.learn(answered_by(TEACHERS, after)) is None
    assert source.steps == 0


def test_aggregation_may_learn_from_the_class_targets_of_the_last_state_of_a_batch_alone() -> None:
    source, labels = context().part(spec(target=LatentBatch(3, latent=5))), []
    for _ in range(6):
        proposal = propose(source)
        assert proposal.class_targets is not None
        last = proposal.labels is not None
        assert not last or torch.equal(proposal.labels, proposal.class_targets)
        labels.append(last)
        drained(source.learn(answered_by(TEACHERS, proposal)), TEACHERS)
    assert labels == [False, False, True] * 2


# --- its step


def pixels_of(source: TrainedSource) -> Tensor:
    assert isinstance(source.target, InvertedPixels)
    return source.target.module.pixels


def slope_of(gradient: Gradient, *terms: Term) -> tuple[Tensor, AnsweredBatch]:
    """The gradient that a step leaves in the pixels, and what was answered."""
    source = context().part(spec(*terms, gradient=gradient))
    answered = step(source)
    slope = pixels_of(source).grad
    assert slope is not None
    return slope, answered


def by_autograd(of: AnsweredBatch, *terms: Term, seen: str = "teachers") -> Tensor:
    """d loss / d images, teachers and student in one graph."""
    x = (of.images.float() / 255).requires_grad_()
    student = network(2)(x)
    teacher = student if seen == "student" else torch.stack([n(x) for n in NETWORKS.values()])
    teacher = teacher if seen == "student" else teacher.mean(0)
    batch = Batch(x, {LOGITS: teacher}, student, class_targets=of.proposal.class_targets)
    loss = torch.stack([term.value(batch) for term in terms]).sum()
    (slope,) = torch.autograd.grad(loss, x)
    return slope


def test_a_pulled_back_step_is_that_of_autograd_through_teachers_and_student() -> None:
    terms = (target_class(), jensen_shannon(1.0))
    slope, answered = slope_of(PULL_BACK, *terms)
    torch.testing.assert_close(slope, by_autograd(answered, *terms), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    "gradient", [PULL_BACK, STRAIGHT_THROUGH, forward_differences()], ids=lambda g: g.name
)
def test_whoever_is_left_out_of_the_fusion_has_no_part_in_the_gradient(gradient: Gradient) -> None:
    both, b_alone = TEACHERS, InProcess({"b": NETWORKS["b"]}, SHAPE, K)
    steps = []
    for teachers, left_out in ((both, {"a": (False,) * K}), (b_alone, {})):
        source = context(rng=rng(5)).part(spec(gradient=gradient))
        answered = answered_by(teachers, propose(source), rule="mean_probabilities")
        assert isinstance(answered.fusion, RuleFusion)
        fusion = replace(answered.fusion, trusted=left_out)
        target = fusion.of(answered.answers)[LOGITS].detach()
        learning = source.learn(replace(answered, fusion=fusion, target=target))
        asked = drained(learning, teachers)
        assert not any("a" in request for request in asked if isinstance(request, dict))
        steps.append(pixels_of(source).detach().clone())
    assert torch.equal(*steps)


def test_a_step_by_the_student_is_that_of_autograd_with_the_student_for_every_teacher() -> None:
    slope, answered = slope_of(STUDENT, target_class())
    expected = by_autograd(answered, target_class(), seen="student")
    torch.testing.assert_close(slope, expected, rtol=1e-3, atol=1e-6)


def test_the_student_is_left_as_it_was() -> None:
    built = context()
    source = built.part(spec(target_class(), adversarial_kl()))
    before = {name: t.clone() for name, t in built.student.state_dict().items()}
    step(source)
    assert all(p.grad is None and p.requires_grad for p in built.student.parameters())
    assert all(torch.equal(t, before[n]) for n, t in built.student.state_dict().items())


def test_terms_see_which_samples_were_selected() -> None:
    seen: list[Tensor | None] = []

    def value(b: Batch) -> Tensor:
        seen.append(b.selected)
        return b.student.sum()

    source = context().part(spec(Term("seeing", "", frozenset({LOGITS}), value)))
    proposal, selected = propose(source), torch.arange(B) % 2 == 0
    answered = answered_by(TEACHERS, proposal, selected=selected)
    drained(source.learn(answered), TEACHERS)
    (found,) = seen
    assert found is not None
    assert torch.equal(found, selected)


def test_weights_follow_the_schedule_and_stand_in_the_record_with_the_terms() -> None:
    record = Recorded()
    terms: tuple[tuple[Schedule, Term], ...] = (
        (ramp(0.0, 2.0, 0.0, 1.0), target_class()),
        (constant(0.5), one_hot()),
    )
    source = context(record=record).part(TrainedGenerator(terms, PULL_BACK, PixelBatch(1000)))
    answered = answered_by(TEACHERS, propose(source), progress=0.25)
    drained(source.learn(answered), TEACHERS)
    ((kind, facts),) = record.events
    assert (kind, facts["step"], source.steps) == ("generated", 1, 1)
    assert facts["weights"] == {"target_class": 0.5, "one_hot": 0.5}
    x = answered.images.float() / 255
    with torch.no_grad():
        teacher = torch.stack([n(x) for n in NETWORKS.values()]).mean(0)
    batch = Batch(x, {LOGITS: teacher}, teacher, class_targets=answered.proposal.class_targets)
    for term in (target_class(), one_hot()):
        assert facts["terms"][term.name] == pytest.approx(float(term.value(batch)), rel=1e-4)
    slope = pixels_of(source).grad
    assert slope is not None
    halves = by_autograd(answered, target_class()) + by_autograd(answered, one_hot())
    torch.testing.assert_close(slope, 0.5 * halves, rtol=1e-3, atol=1e-6)


def test_another_batch_begins_without_the_momentum_of_the_last() -> None:
    source = context().part(spec(target=PixelBatch(2)))
    step(source)
    assert source.optimizer.state
    first = pixels_of(source).detach().clone()
    step(source)
    assert not source.optimizer.state
    moved = (pixels_of(source).detach() - first).abs().mean()
    assert float(moved) > 0.2  # noise anew, where a step is of 0.05


def test_the_mean_of_a_networks_weights_follows_every_step() -> None:
    source = context().part(spec(one_hot(), target=GeneratorNetwork(5, averaging=0.5)))
    assert isinstance(source.target, GeneratorParameterisation)
    assert source.target.average is not None
    seen = []
    for seed in range(3):
        step(source, seed)
        seen.append(source.target.network.project.weight.detach().clone())
    expected = 0.5 * (0.5 * seen[0] + 0.5 * seen[1]) + 0.5 * seen[2]
    assert torch.allclose(source.target.average.module.project.weight, expected, atol=1e-6)
    assert not torch.allclose(seen[2], expected, atol=1e-3)


# --- what it remembers


@pytest.mark.parametrize(
    ("interval", "expected"), [(1, [0, 1, 2, 3, 4, 5]), (2, [1, 3, 5]), (4, [1, 5])]
)
def test_a_term_captures_at_the_second_step_of_each_interval(
    interval: int, expected: list[int]
) -> None:
    captured: list[int] = []
    known: list[float] = []

    def value(b: Batch) -> Tensor:
        known.append(float(b.previous.get("past", torch.tensor(-1.0))))
        return b.student.sum()

    def capture(b: Batch) -> Tensor:
        captured.append(source.steps)
        return torch.tensor(float(source.steps))

    term = Term("past", "", frozenset({LOGITS}), value, capture, interval)
    source = context().part(spec(term))
    for seed in range(6):
        step(source, seed)
    assert captured == expected
    latest = [max((c for c in expected if c < at), default=-1) for at in range(6)]
    assert known == latest


def test_one_that_was_set_back_goes_on_alike() -> None:
    def capture(b: Batch) -> Tensor:
        return b.student.sum()

    def value(b: Batch) -> Tensor:
        return one_hot().value(b) * b.previous.get("past", torch.tensor(1.0))

    settings = spec(
        *(Term("past", "", frozenset({LOGITS}), value, capture), target_class()),
        target=LatentBatch(5, jitter=0.2, flips=True, latent=5),
    )
    one, other = context().part(settings), context().part(settings)
    for seed in range(3):
        step(one, seed)
    other.restore(one.state())
    assert other.steps == 3
    for seed in range(3, 6):  # a batch ends at the fifth
        one.context.rng, other.context.rng = rng(seed), rng(seed)
        first, second = step(one, seed), step(other, seed)
        assert torch.equal(first.images, second.images)


# --- what makes no sense


@pytest.mark.parametrize(
    "values", [{"rate": 0.0}, {"rate": math.inf}, {"until": 0.0}, {"until": 1.1}]
)
def test_numbers_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match=r"generator: rate .* expected > 0 and in \(0, 1\]"):
        replace(spec(), **values)  # type: ignore[arg-type]


def test_a_generator_without_terms_is_refused() -> None:
    with pytest.raises(SettingsError, match="without terms cannot learn; give one a weight above"):
        TrainedGenerator((), PULL_BACK, PixelBatch())


def test_a_weight_below_zero_is_refused() -> None:
    with pytest.raises(SettingsError, match="weight of one_hot is -1"):
        TrainedGenerator(((constant(-1.0), one_hot()),), PULL_BACK, PixelBatch())


@pytest.mark.parametrize("gradient", GRADIENTS.values(), ids=lambda gradient: gradient.name)
def test_the_gap_is_pulled_back_or_refused_by_name(gradient: Gradient) -> None:
    if gradient.pulls_back:
        assert BN_GAP in spec(bn_gap(), gradient=gradient).needs.signals
        return
    with pytest.raises(SettingsError, match=r'bn_gap needs the gradient of .* "pull_back" gives'):
        spec(bn_gap(), gradient=gradient)
