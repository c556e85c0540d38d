"""Each way to a gradient against its formula, on small smooth teachers."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fedkd.errors import SettingsError
from fedkd.models import InProcess
from fedkd.protocol import Answers, Ask, PullBack, Reply, Request, Signal, as_float
from fedkd.synthesis.teacher_gradients import (
    GRADIENTS,
    NONE,
    PULL_BACK,
    STRAIGHT_THROUGH,
    STUDENT,
    DroppedGradients,
    Gradient,
    Point,
    forward_differences,
    gradient_named,
)

B, K, SHAPE = 32, 4, (1, 4, 4)
LOGITS, BN_GAP = Signal.LOGITS, Signal.BN_GAP


def smooth(seed: int) -> nn.Module:
    """(B, 1, 4, 4) -> (B, K) with derivatives of every order."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 24), nn.Tanh(), nn.Linear(24, K))


TEACHERS = {"east": smooth(1), "west": smooth(2)}


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(low: int = 60, high: int = 196) -> Tensor:
    """Far enough from black and white for a step of 0.1."""
    return torch.randint(low, high, (B, *SHAPE), generator=rng(0), dtype=torch.uint8)


def point(at: Tensor) -> Point:
    """A point with random cotangents, and what the teachers say there."""
    answers = InProcess(TEACHERS, SHAPE, K).answer(Ask(at, exact=True))
    cotangents = {
        name: {LOGITS: torch.randn(B, K, generator=rng(seed))}
        for seed, name in enumerate(TEACHERS, 10)
    }
    return Point(at, answers, cotangents, smooth(3), rng(4))


def jacobian_product(module: nn.Module, at: Tensor, cotangent: Tensor) -> Tensor:
    """J^T c, written out in double precision."""
    with torch.no_grad():
        w1, b1, w2 = (p.double() for p in list(module.parameters())[:3])
        hidden = torch.tanh(at.flatten(1).double() / 255 @ w1.T + b1)
        return ((cotangent.double() @ w2 * (1 - hidden**2)) @ w1).view(at.shape)


def truth(at: Point) -> Tensor:
    """The teachers' part of the gradient."""
    products = [
        jacobian_product(TEACHERS[name], at.images, at.cotangents[name][LOGITS])
        for name in at.cotangents
    ]
    return torch.stack(products).sum(0)


def pulled(
    how: Gradient, at: Point, teachers: Mapping[str, nn.Module] = TEACHERS
) -> tuple[Tensor, list[Request]]:
    """What it comes to, and what was asked on the way."""
    institutions, asked = InProcess(teachers, SHAPE, K), []
    run = how.pull(at)
    try:
        request = next(run)
        while True:
            asked.append(request)
            request = run.send(institutions.answer(request))
    except StopIteration as stop:
        return stop.value, asked


def test_pulling_back_adds_what_each_institution_returns() -> None:
    at = point(images())
    value, (request,) = pulled(PULL_BACK, at)
    torch.testing.assert_close(value.double(), truth(at), rtol=1e-4, atol=1e-6)
    assert isinstance(request, Mapping)
    assert set(request) == set(TEACHERS)
    for name, each in request.items():
        assert isinstance(each, PullBack)
        assert torch.equal(each.images, at.images)
        assert each.cotangents is at.cotangents[name]


def test_who_does_not_pull_back_is_left_out_of_the_sum() -> None:
    at = point(images())
    run = PULL_BACK.pull(at)
    answers: Answers = InProcess(TEACHERS, SHAPE, K).answer(next(run))
    with pytest.raises(StopIteration) as stop:
        run.send({"west": answers["west"], "east": Reply()})
    without = replace(at, cotangents={"west": at.cotangents["west"]})
    torch.testing.assert_close(stop.value.value.double(), truth(without), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("how", [STUDENT, STRAIGHT_THROUGH], ids=lambda how: how.name)
def test_through_the_student_goes_the_sum_of_cotangents_and_nothing_is_asked(how: Gradient) -> None:
    at = point(images())
    value, asked = pulled(how, at)
    total = torch.stack([c[LOGITS] for c in at.cotangents.values()]).sum(0)
    expected = jacobian_product(at.student, at.images, total)
    torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=1e-6)
    assert asked == []
    assert all(p.grad is None for p in at.student.parameters())


def test_no_gradient_is_zero_and_asks_nothing() -> None:
    value, asked = pulled(NONE, point(images()))
    assert value.shape == (B, *SHAPE)
    assert not bool(value.any())
    assert asked == []


def cosine(one: Tensor, other: Tensor) -> float:
    return float(torch.cosine_similarity(one.flatten().double(), other.flatten(), dim=0))


def test_differences_point_the_closer_to_the_gradient_the_more_directions_are_asked() -> None:
    at = point(images())
    found = [cosine(pulled(forward_differences(m), at)[0], truth(at)) for m in (1, 16, 256)]
    # With m directions in d = 16 dimensions the square of the cosine is near m / (m + d).
    expected = [(m / (m + 16)) ** 0.5 for m in (1, 16, 256)]
    assert found == pytest.approx(expected, abs=0.1)
    assert found == sorted(found)


def test_differences_have_the_length_of_the_gradient() -> None:
    at = point(images())
    value, right = pulled(forward_differences(256), at)[0].double(), truth(at)
    assert float((value * right).sum() / right.square().sum()) == pytest.approx(1.0, abs=0.1)


def test_differences_with_another_samples_cotangent_point_nowhere() -> None:
    at = point(images())
    shuffled = {n: {LOGITS: c[LOGITS].roll(1, 0)} for n, c in at.cotangents.items()}
    value, _ = pulled(forward_differences(256), replace(at, cotangents=shuffled))
    assert abs(cosine(value, truth(at))) < 0.3


def test_differences_at_black_images_still_point_uphill() -> None:
    at = point(images(0, 1))
    value, asked = pulled(forward_differences(256), at)
    assert all(float(ask.images.min()) >= 0 for ask in asked)
    assert cosine(value, truth(at)) > 0.8


@pytest.mark.parametrize("directions", [1, 3])
def test_differences_ask_one_exact_question_for_each_direction(directions: int) -> None:
    at, how = point(images()), forward_differences(directions, step=0.05)
    _, asked = pulled(how, at)
    assert len(asked) == how.questions == directions
    for ask in asked:
        assert isinstance(ask, Ask)
        assert (ask.signals, ask.exact) == ({LOGITS}, True)
        moved = (ask.images - as_float(at.images)).flatten(1).norm(dim=1)
        torch.testing.assert_close(moved, torch.full((B,), 0.05), rtol=1e-4, atol=0)


def test_differences_go_by_who_answered_both_times() -> None:
    at = point(images())
    alone, _ = pulled(forward_differences(64), at, {"west": TEACHERS["west"]})
    without = replace(
        at,
        cotangents={"west": at.cotangents["west"]},
        rng=rng(4),
    )
    expected, _ = pulled(forward_differences(64), without)
    assert torch.equal(alone, expected)


def test_differences_are_those_of_the_generator_that_was_given() -> None:
    at = point(images())
    values = [pulled(forward_differences(), replace(at, rng=rng(s)))[0] for s in (1, 1, 2)]
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])


@pytest.mark.parametrize("how", GRADIENTS.values(), ids=lambda how: how.name)
def test_bytes_and_floats_are_one_image_and_stay_as_they_were(how: Gradient) -> None:
    at = point(images())
    unit = as_float(at.images)
    assert float(unit[0, 0, 0, 0]) == pytest.approx(int(at.images[0, 0, 0, 0]) / 255)
    value, _ = pulled(how, replace(at, rng=rng(4)))
    again, _ = pulled(how, replace(at, images=unit, rng=rng(4)))
    assert torch.equal(value, again)
    assert torch.equal(unit, as_float(at.images))
    assert not unit.requires_grad


@pytest.mark.parametrize(
    ("directions", "step"), [(0, 0.1), (-1, 0.1), (1, 0.0), (1, -0.1), (1, float("nan"))]
)
def test_differences_along_nothing_or_over_nothing_are_refused(
    directions: int, step: float
) -> None:
    with pytest.raises(SettingsError, match="expected directions >= 1 and a finite step > 0"):
        forward_differences(directions, step)


def test_gradients_go_by_their_names() -> None:
    assert all(gradient_named(name).name == name for name in GRADIENTS)
    assert [g.name for g in GRADIENTS.values() if g.pulls_back] == ["pull_back"]
    assert [g.name for g in GRADIENTS.values() if g.believes_student] == ["student"]
    with pytest.raises(SettingsError, match="unknown gradient 'pullback'; choose one of none, pul"):
        gradient_named("pullback")


@pytest.mark.parametrize("value", [3e38, -3e38, float("inf"), float("nan")])
@pytest.mark.parametrize("way", ["pull_back", "finite_differences"])
def test_what_no_network_can_have_is_left_out_and_said_once(way: str, value: float) -> None:
    """Such a gradient filled Adam's second moment: steps stopped, and nobody was told."""
    told: list[tuple[str, str]] = []
    dropped = DroppedGradients(lambda kind, **facts: told.append((kind, str(facts["text"]))))
    at = replace(point(images()), dropped=dropped)
    total = torch.zeros(0)
    for _ in range(2):
        run = GRADIENTS[way].pull(replace(at, rng=rng(4)))
        try:
            answers = dict(InProcess(TEACHERS, SHAPE, K).answer(next(run)))
            hostile = {s: torch.full_like(v, value) for s, v in answers["west"].signals.items()}
            gradient = answers["west"].gradient
            answers["west"] = Reply(
                hostile, None if gradient is None else torch.full_like(gradient, value)
            )
            run.send(answers)
        except StopIteration as stop:
            total = stop.value
    alone = replace(at, rng=rng(4), cotangents={"east": at.cotangents["east"]})
    assert torch.equal(total, pulled(GRADIENTS[way], alone)[0])
    assert [kind for kind, _ in told] == ["warned"]
    assert "west" in told[0][1]
