"""Feature alignment: HiDFD's student under the teacher's classifier, against its formulas."""

import math

import pytest
import torch
from torch import Tensor

from fedkd.core.augmentation import Augmentation
from fedkd.core.run_plan import Plan
from fedkd.errors import SettingsError
from fedkd.loop import Distillation, drive
from fedkd.methods import hidfd
from fedkd.models import InProcess, Network, build_network
from fedkd.procedural import build_priors
from fedkd.protocol import Answers, Ask, Request, Signal
from fedkd.student.feature_alignment import AlignedStudent, FeatureAlignment
from tests.support.contexts import context_of

SHAPE, K, N = (1, 8, 8), 4, 300


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(seed: int, name: str = "cnn") -> Network:
    made = build_network(name, K, SHAPE, seed).eval()
    assert isinstance(made, Network)
    return made


IMAGES = torch.randint(0, 256, (N, *SHAPE), generator=rng(0), dtype=torch.uint8)
TEACHER = network(1)


def answered(images: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        features = TEACHER.embed(images / 255.0)
        return features, TEACHER.head(features)


def aligned(student: Network, count: int = N) -> AlignedStudent:
    part = context_of(student, SHAPE, K).part(FeatureAlignment())
    part.remember(IMAGES[:count], *answered(IMAGES[:count]))
    part.prepare(rng(0))
    return part


def test_the_loss_of_a_sample_is_that_of_the_paper() -> None:
    student = network(2, "mlp")
    part = aligned(student, 200)
    x = IMAGES[190:204]  # the last four are not known
    found = part.term(x, student(x / 255.0), 0.0)
    assert found is not None
    projector = part._projector
    assert projector is not None
    own, wanted = student.embed(x / 255.0), answered(x)[0]
    for i in range(14):
        row = (projector.weight.detach() @ own[i].detach() + projector.bias.detach()).tolist()
        squares = [(a - b) ** 2 for a, b in zip(row, wanted[i].tolist(), strict=True)]
        expected = sum(squares) / len(squares) if i < 10 else 0.0
        assert float(found[i].detach()) == pytest.approx(expected, rel=1e-4)
    found.sum().backward()
    first = next(p for p in student.body.parameters())
    assert first.grad is not None
    assert float(first.grad.abs().sum()) > 0
    assert student.head.weight.grad is None


def test_the_classifier_is_the_teachers_own() -> None:
    part = aligned(network(2))
    spread = answered(IMAGES)[0]
    wide = torch.linalg.matrix_rank(spread - spread.mean(0)) == spread.shape[1]
    assert bool(wide), "these features decide every weight"
    weight = torch.cat([TEACHER.head.weight.T, TEACHER.head.bias[None]]).detach()
    assert torch.allclose(part.classifier, weight, atol=1e-3)


def test_after_each_step_the_student_answers_by_the_teachers_classifier() -> None:
    student = network(2, "mlp")
    part = aligned(student)
    for step in range(3):
        loss = part.term(IMAGES[:50], student(IMAGES[:50] / 255.0), 0.0)
        assert loss is not None
        loss.mean().backward()
        part.follow(IMAGES[:50], torch.zeros(50, K), step, 0.0)
    assert part._projector is not None
    with torch.no_grad():
        projected = part._projector(student.embed(IMAGES[:50] / 255.0))
        expected = TEACHER.head(projected)
        assert torch.allclose(student(IMAGES[:50] / 255.0), expected, atol=1e-2)


def test_a_state_brings_all_back() -> None:
    part, other = (aligned(network(2, "mlp")) for _ in "ab")
    part.term(IMAGES, network(2, "mlp")(IMAGES / 255.0), 0.0)
    part._parts_for(0)[0].weight.data.mul_(2.0)
    other = context_of(network(2, "mlp"), SHAPE, K).part(FeatureAlignment())
    other.restore(part.state())
    losses = [p.term(IMAGES[:9], torch.zeros(9, K), 0.0) for p in (part, other)]
    assert losses[0] is not None
    assert losses[1] is not None
    assert torch.equal(*losses)
    assert torch.equal(part.classifier, other.classifier)


def test_what_cannot_be_aligned_is_refused() -> None:
    with pytest.raises(SettingsError, match="has no last layer"):
        context_of(torch.nn.Flatten(), SHAPE, K).part(FeatureAlignment())
    shifted = Plan(64, augmentation=Augmentation(shift=1))
    with pytest.raises(SettingsError, match="shifted or mirrored"):
        context_of(network(2), SHAPE, K, plan=shifted).part(FeatureAlignment())


def run_with(count: int) -> tuple[Network, list[Request]]:
    names = [f"t{i}" for i in range(count)]
    teachers = InProcess(dict.fromkeys(names, TEACHER), SHAPE, K)
    requests: list[Request] = []

    def put(request: Request) -> Answers:
        requests.append(request)
        return teachers.answer(request)

    student = network(2, "mlp").train()
    plan = Plan(600, 50, 150, student_batch=32, learning_rate=5e-3)
    method = hidfd(latent=6)
    run = Distillation(student, method, teachers.cards, plan, build_priors("noise"), public=IMAGES)
    drive(run.requests(), put)
    return student, requests


def test_one_institution_gives_features_and_its_student_agrees_with_it() -> None:
    student, requests = run_with(1)
    asks = [r for r in requests if isinstance(r, Ask)]
    assert all({Signal.LOGITS, Signal.FEATURES} <= a.signals for a in asks)
    assert all(Signal.FEATURES not in r["t0"].cotangents for r in requests if r not in asks and r)
    fresh = network(2, "mlp")
    x = torch.cat([a.images for a in asks])
    with torch.no_grad():
        wanted = answered(x)[1]
        gaps = [float((s.eval()(x / 255.0) - wanted).square().mean()) for s in (student, fresh)]
    assert gaps[0] < gaps[1] / 4
    assert math.isfinite(gaps[0])


def test_the_form_for_one_institution_trains_its_generator_as_the_other_does() -> None:
    method = hidfd()
    assert method.alone is not None
    assert method.alone.gradient is method.gradient
    assert method.alone.needs.pull_back
    assert method.alone.needs.public_data


def test_several_institutions_are_asked_for_scores() -> None:
    _, requests = run_with(2)
    assert all(Signal.FEATURES not in r.signals for r in requests if isinstance(r, Ask))
