"""Model inversion: one batch that is trained for several steps, with the classes it is to show."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fedkd.core.interfaces import Context
from fedkd.domains.images import Images
from fedkd.errors import SettingsError
from fedkd.loop import Distillation, Plan, drive
from fedkd.methods import deepinversion
from fedkd.models import Generator, InProcess
from fedkd.procedural import build_priors
from fedkd.protocol import Answers, Ask, Request
from fedkd.synthesis import LatentBatch, PixelBatch
from fedkd.synthesis.pixel_and_latent_parameterisation import InvertedBatch, InvertedLatents, Pixels
from tests.support.contexts import context_of

SHAPE, CLASSES = (1, 8, 8), 4


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES))


def context(batch: int = 10) -> Context:
    return context_of(network(2), SHAPE, CLASSES, plan=Plan(64, batch))


@pytest.mark.parametrize("spec", [LatentBatch(latent=6), PixelBatch()])
def test_a_batch_is_the_same_until_another_begins(spec: PixelBatch) -> None:
    source = spec.build(context())
    assert source.begin(rng(0))
    one, again = source.draw(10, rng(1), True), source.draw(10, rng(2), True)
    assert torch.equal(one.images, again.images)
    assert one.images.requires_grad
    assert bool(((one.images >= 0) & (one.images <= 1)).all())
    assert one.class_targets is not None
    assert again.class_targets is not None
    assert torch.equal(one.class_targets, again.class_targets)
    assert sorted(one.class_targets.bincount(minlength=CLASSES).tolist()) == [2, 2, 3, 3]
    source.begin(rng(3))
    other = source.draw(10, rng(1), True)
    assert not torch.equal(one.images, other.images)
    assert other.class_targets is not None
    assert not torch.equal(one.class_targets, other.class_targets)
    source.begin(rng(0))
    assert torch.equal(source.draw(10, rng(1), True).images, one.images)
    assert len(source.draw(3, rng(1), True).images) == 3
    assert not source.draw(3, rng(1), False).images.requires_grad


def test_the_network_of_latents_begins_anew_with_every_batch() -> None:
    source = LatentBatch(latent=6).build(context())
    assert isinstance(source, InvertedLatents)
    first = []
    for seed in (0, 1, 0):
        source.begin(rng(seed))
        assert isinstance(source.module.generator, Generator)
        first.append(source.module.generator.project.weight.detach().clone())
    assert torch.equal(first[0], first[2])
    assert not torch.equal(first[0], first[1])


def test_the_network_of_latents_is_the_domain_s() -> None:
    class OtherGenerator(Images):
        def generator(self, latent: int) -> nn.Module:
            return Generator(latent, self.shape, width=3)

    source = LatentBatch(latent=6).build(replace(context(), domain=OtherGenerator(SHAPE)))
    assert isinstance(source, InvertedLatents)
    assert isinstance(source.module.generator, Generator)
    assert source.module.generator.start[0] == 6


def test_the_first_pixels_are_noise_of_the_given_mean_and_deviation() -> None:
    source = PixelBatch(mean=0.4, deviation=0.05).build(context(200))
    source.begin(rng(0))
    images = source.draw(200, rng(1), False).images
    assert float(images.mean()) == pytest.approx(0.4, abs=0.01)
    assert float(images.std()) == pytest.approx(0.05, abs=0.01)
    with pytest.raises(SettingsError, match="deviation -1"):
        PixelBatch(deviation=-1.0)


@pytest.mark.parametrize("spec", [LatentBatch(latent=6), PixelBatch()])
def test_a_batch_under_way_is_set_back(spec: PixelBatch) -> None:
    source, again = spec.build(context()), spec.build(context())
    source.begin(rng(0))
    again.begin(rng(1))
    again.restore(source.state())
    one, other = source.draw(10, rng(2), True), again.draw(10, rng(2), True)
    assert torch.equal(one.images, other.images)
    assert one.class_targets is not None
    assert other.class_targets is not None
    assert torch.equal(one.class_targets, other.class_targets)


def drawn(spec: PixelBatch, seed: int) -> Tensor:
    """One batch, seen by the question with that seed."""
    source: InvertedBatch = spec.build(context(3))
    source.begin(rng(0))
    return source.draw(3, rng(seed), True).images.detach()


def test_a_question_moves_all_images_alike_and_loses_nothing() -> None:
    still = drawn(PixelBatch(), 1)
    seen = {
        drawn(PixelBatch(jitter=0.125, flips=True), s).sum(0).numpy().tobytes() for s in range(60)
    }
    assert len(seen) == 18  # nine places, mirrored or not
    moved = drawn(PixelBatch(jitter=0.5), 2)
    assert not torch.equal(moved, still)
    assert torch.equal(moved.flatten().sort().values, still.flatten().sort().values)
    places = {
        (dy, dx)
        for dy in range(8)
        for dx in range(8)
        if torch.equal(still.roll((dy, dx), (2, 3)), moved)
    }
    assert len(places) == 1


def test_what_a_step_carried_beyond_black_and_white_is_put_back() -> None:
    pixels = Pixels(2, SHAPE)
    with torch.no_grad():
        pixels.pixels.fill_(1.7)
    assert bool((pixels() == 1.0).all())


@pytest.mark.parametrize("values", [{"steps": 0}, {"jitter": -0.1}, {"jitter": 1.1}])
def test_a_batch_that_makes_no_sense_is_refused(values: dict[str, float]) -> None:
    for spec in (PixelBatch, LatentBatch):
        with pytest.raises(SettingsError, match=r"model inversion: .* >= 1 and in \[0, 1\]"):
            spec(**values)  # type: ignore[arg-type]


def test_latents_of_no_size_are_refused() -> None:
    with pytest.raises(SettingsError, match="model inversion: latent 0; expected >= 1"):
        LatentBatch(latent=0)


def test_deepinversion_makes_teachers_see_the_class_targets_batch_by_batch() -> None:
    teachers = InProcess({"a": network(1)}, SHAPE, CLASSES)
    method = deepinversion(steps_per_batch=10, bn_weight=0.0, jitter=0.0, flips=False)
    plan, requests = Plan(80, 4, 10, student_batch=8), []

    def put(request: Request) -> Answers:
        requests.append(request)
        return teachers.answer(request)

    run = Distillation(network(2), method, teachers.cards, plan, build_priors("noise"))
    drive(run.requests(), put)
    asks = [request for request in requests if isinstance(request, Ask)]
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
