"""Model inversion: one batch of pixels or latents, optimised for its class targets."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from fedkd.core.augmentation import jittered
from fedkd.errors import SettingsError
from fedkd.loop import Distillation, Plan, distil, drive
from fedkd.methods import deepinversion, ideal
from fedkd.models import InProcess
from fedkd.procedural import build_priors
from fedkd.protocol import Answers, Ask, Request, Signal
from fedkd.synthesis.generator_training import TrainedSource
from fedkd.synthesis.inversion import InvertedBatch, LatentBatch, PixelBatch, Pixels

SHAPE, CLASSES = (1, 8, 8), 4


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES))


TEACHERS = InProcess({"a": network(1)}, SHAPE, CLASSES)


def inverted(kind: str, count: int = 10) -> InvertedBatch:
    settings = PixelBatch() if kind == "pixels" else LatentBatch(latent=6)
    context = SimpleNamespace(
        shape=SHAPE,
        classes=CLASSES,
        seed=0,
        plan=SimpleNamespace(batch=count),
        compute=SimpleNamespace(place=lambda module: module),
    )
    return settings.build(context)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["latents", "pixels"])
def test_a_batch_is_the_same_until_another_begins(kind: str) -> None:
    target = inverted(kind)
    target.begin(rng(0))
    one, again = target.draw(10, rng(1), True), target.draw(10, rng(2), True)
    assert torch.equal(one.images, again.images)
    assert one.images.requires_grad
    assert bool(((one.images >= 0) & (one.images <= 1)).all())
    assert one.class_targets is not None
    assert again.class_targets is not None
    assert torch.equal(one.class_targets, again.class_targets)
    assert sorted(one.class_targets.bincount(minlength=CLASSES).tolist()) == [2, 2, 3, 3]
    target.begin(rng(3))
    other = target.draw(10, rng(1), True)
    assert other.class_targets is not None
    assert not torch.equal(one.images, other.images)
    assert not torch.equal(one.class_targets, other.class_targets)
    target.begin(rng(0))
    assert torch.equal(target.draw(10, rng(1), True).images, one.images)
    assert len(target.draw(3, rng(1), True).images) == 3


def test_an_augmentation_moves_all_images_alike_and_loses_nothing() -> None:
    images = torch.rand(3, *SHAPE, generator=rng(0))
    assert torch.equal(jittered(images, 0.0, False, rng(1)), images)
    seen = {jittered(images, 0.125, True, rng(s)).sum(0).numpy().tobytes() for s in range(60)}
    assert len(seen) == 18  # nine places, mirrored or not
    moved = jittered(images, 0.5, False, rng(2))
    assert torch.equal(moved.flatten().sort().values, images.flatten().sort().values)


def test_what_a_step_carried_beyond_black_and_white_is_put_back() -> None:
    pixels = Pixels(2, SHAPE)
    with torch.no_grad():
        pixels.pixels.fill_(1.7)
    assert bool((pixels() == 1.0).all())


@pytest.mark.parametrize("values", [{"steps": 0}, {"jitter": -0.1}, {"jitter": 1.1}])
def test_settings_that_make_no_sense_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match=r"expected >= 1 and in \[0, 1\]"):
        PixelBatch(**values)  # type: ignore[arg-type]


def test_another_batch_begins_without_the_momentum_of_the_last() -> None:
    method = deepinversion(bn_weight=0.0)
    plan, priors = Plan(80, 4, 10, student_batch=8), build_priors("noise")
    run = Distillation(network(2), method, TEACHERS.cards, plan, priors)
    source = run._scheduler.sources["generator"]
    assert isinstance(source, TrainedSource)
    torch.autograd.backward(source.target.draw(4, rng(1), True).images.sum())
    source.optimizer.step()
    assert source.optimizer.state
    source.begin()
    assert not source.optimizer.state


def asked(requests: list[Request]) -> list[Ask]:
    return [request for request in requests if isinstance(request, Ask)]


def heard(method: object, plan: Plan) -> tuple[Distillation, list[Request]]:
    requests: list[Request] = []

    def put(request: Request) -> Answers:
        requests.append(request)
        return TEACHERS.answer(request)

    run = Distillation(network(2), method, TEACHERS.cards, plan, build_priors("noise"))  # type: ignore[arg-type]
    drive(run.requests(), put)
    return run, requests


def sureness(images: Tensor, wanted: Tensor) -> float:
    with torch.no_grad():
        said = network(1)(images.float() / 255).log_softmax(1)
    return float(said[range(len(said)), wanted].mean())


def test_deepinversion_makes_teachers_see_what_is_wanted_batch_by_batch() -> None:
    method = deepinversion(steps_per_batch=10, bn_weight=0.0, jitter=0.0, flips=False)
    _, requests = heard(method, Plan(80, 4, 10, student_batch=8))
    asks = asked(requests)
    assert len(asks) == 20
    assert len(requests) == 40  # each was pulled back once
    for first, last in ((0, 9), (10, 19)):
        decided = [network(1)(asks[i].images.float() / 255) for i in (first, last)]
        assert sorted(decided[1].argmax(1).tolist()) == [0, 1, 2, 3]  # one of each was wanted
        sure = [d.softmax(1).max(1).values.mean().item() for d in decided]
        assert sure[1] > sure[0] or sure[1] > 0.5
    jump = (asks[10].images.float() - asks[9].images.float()).abs().mean()
    step = (asks[9].images.float() - asks[8].images.float()).abs().mean()
    assert jump > 3 * step


def test_ideal_asks_once_and_nobody_while_its_generator_learns() -> None:
    method = ideal(latent=8, generator_steps=25, generator_rate=0.05)
    run, requests = heard(method, Plan(80, 8, 10, student_batch=8))
    assert len(requests) == len(asked(requests)) == 10
    assert all(a.signals == {Signal.LOGITS} and not a.exact for a in asked(requests))
    assert run.generator_steps == 250
    assert run.pulled_back == 0


def test_a_surrogate_step_makes_the_student_see_what_is_wanted() -> None:
    sure = []
    for steps in (1, 40):
        told: list[float] = []
        loop = distil(
            *(network(2), ideal(latent=8, generator_steps=steps, generator_rate=0.05)),
            *(TEACHERS.cards, Plan(8, 8, 0), build_priors("noise")),
            watch=lambda p, told=told: (
                told.append(p.facts["terms"]["target_class"])  # type: ignore[index, misc]
                if p.kind == "generated"
                else None
            ),
        )
        drive(loop, TEACHERS.answer)
        sure.append(told[0])
    assert sure[1] < sure[0] - 0.1
