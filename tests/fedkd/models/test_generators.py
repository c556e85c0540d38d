"""Canvases: one batch that is worked on, with the classes that it should show."""

import pytest
import torch
from fedkd.synthesis.sources import Kept
from torch import Tensor, nn

from fedkd.errors import SettingsError
from fedkd.loop import Distillation, Plan, distil, drive
from fedkd.methods import deepinversion, ideal
from fedkd.models import InProcess, Pixels, SynthesisTarget
from fedkd.procedural import build_priors
from fedkd.protocol import Answers, Ask, Request, Signal
from fedkd.synthesis.generator_training import Invention

SHAPE, CLASSES = (1, 8, 8), 4


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES))


TEACHERS = InProcess({"a": network(1)}, SHAPE, CLASSES)


def kept(kind: str, count: int = 10) -> Kept:
    target = SynthesisTarget(kind)  # type: ignore[arg-type]
    module = target.build(count, 6, SHAPE, CLASSES)
    assert not isinstance(module, nn.Sequential)
    return Kept(target, module, count, CLASSES)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["latents", "pixels"])
def test_a_batch_is_the_same_until_another_begins(kind: str) -> None:
    source = kept(kind)
    source.begin(rng(0))
    one, again = source.draw(10, rng(1)), source.draw(10, rng(2))
    assert torch.equal(one.images, again.images)
    assert one.images.requires_grad
    assert bool(((one.images >= 0) & (one.images <= 1)).all())
    assert one.wanted is not None
    assert torch.equal(one.wanted, again.wanted)
    assert sorted(one.wanted.bincount(minlength=CLASSES).tolist()) == [2, 2, 3, 3]
    source.begin(rng(3))
    other = source.draw(10, rng(1))
    assert not torch.equal(one.images, other.images)
    assert not torch.equal(one.wanted, other.wanted)
    source.begin(rng(0))
    assert torch.equal(source.draw(10, rng(1)).images, one.images)
    assert len(source.draw(3, rng(1)).images) == 3


def test_a_view_moves_all_images_alike_and_loses_nothing() -> None:
    images = torch.rand(3, *SHAPE, generator=rng(0))
    assert torch.equal(SynthesisTarget().augment(images, rng(1)), images)
    seen = {
        SynthesisTarget(jitter=0.125, flips=True).augment(images, rng(s)).sum(0).numpy().tobytes()
        for s in range(60)
    }
    assert len(seen) == 18  # nine places, mirrored or not
    moved = SynthesisTarget(jitter=0.5).augment(images, rng(2))
    assert torch.equal(moved.flatten().sort().values, images.flatten().sort().values)


def test_what_a_step_carried_beyond_black_and_white_is_put_back() -> None:
    pixels = Pixels(2, SHAPE)
    with torch.no_grad():
        pixels.pixels.fill_(1.7)
    assert bool((pixels() == 1.0).all())


@pytest.mark.parametrize("values", [{"kind": "oil"}, {"jitter": -0.1}, {"jitter": 1.1}])
def test_a_target_that_makes_no_sense_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match="expected network, latents or pixels"):
        SynthesisTarget(**values)  # type: ignore[arg-type]


def test_another_batch_begins_without_the_momentum_of_the_last() -> None:
    method = deepinversion(bn_weight=0.0)
    invention = Invention(method, network(2), SHAPE, 0, 4, CLASSES)
    invention.begin(rng(0))
    torch.autograd.backward(invention.source.draw(4, rng(1)).images.sum())
    invention.optimizer.step()
    assert invention.optimizer.state
    invention.begin(rng(2))
    assert not invention.optimizer.state


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
    method = deepinversion(epoch=10, bn_weight=0.0, jitter=0.0, flips=False)
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


def test_a_rehearsal_makes_the_student_see_what_is_wanted() -> None:
    sure = []
    for steps in (1, 40):
        told: list[float] = []
        loop = distil(
            *(network(2), ideal(latent=8, generator_steps=steps, generator_rate=0.05)),
            *(TEACHERS.cards, Plan(8, 8, 0), build_priors("noise")),
            watch=lambda p, told=told: (
                told.append(p.facts["terms"]["wanted_class"])  # type: ignore[index, misc]
                if p.kind == "generated"
                else None
            ),
        )
        drive(loop, TEACHERS.answer)
        sure.append(told[0])
    assert sure[1] < sure[0] - 0.1
