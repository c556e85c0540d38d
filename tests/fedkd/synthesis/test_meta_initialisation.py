"""Meta-learned initialisation: where the generator of every inverted batch begins."""

import copy

import pytest
import torch
from torch import Tensor, nn

from fedkd.errors import SettingsError
from fedkd.loop import Distillation, Plan, drive
from fedkd.methods import fast_dfkd
from fedkd.models import Generator, InProcess
from fedkd.procedural import build_priors
from fedkd.synthesis import MetaLatentBatch, TrainedGenerator, TrainedSource
from fedkd.synthesis.meta_initialisation import MetaGenerator, MetaInvertedLatents
from tests.support.contexts import context_of

SHAPE, CLASSES = (1, 6, 6), 4


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.Tanh(), nn.Linear(16, CLASSES))


def weights(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def generator(seed: int) -> Generator:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Generator(5, SHAPE, 4)


@pytest.mark.parametrize("reptile", [None, 0.5])
def test_the_meta_generator_takes_the_step_of_the_paper(reptile: float | None) -> None:
    drawing = generator(0)
    settings = MetaLatentBatch(meta_rate=0.01, betas=(0.5, 0.999), reptile=reptile)
    learned = MetaGenerator(settings, drawing)
    meta = copy.deepcopy(drawing)
    expected = torch.optim.Adam(meta.parameters(), 0.01, (0.5, 0.999))
    inner = torch.optim.SGD(drawing.parameters(), 0.1)
    for batch in range(2):
        learned.begin()
        assert torch.equal(weights(drawing), weights(meta))
        slopes = [torch.zeros_like(p) for p in meta.parameters()]
        for step in range(3):
            inner.zero_grad()
            drawing(torch.randn(4, 5, generator=rng(10 * batch + step))).square().sum().backward()
            for slope, p in zip(slopes, drawing.parameters(), strict=True):
                assert p.grad is not None
                slope += p.grad
            learned.note()
            inner.step()
        learned.learn()
        ends = zip(meta.parameters(), slopes, drawing.parameters(), strict=True)
        for p, slope, end in ends:
            p.grad = slope if reptile is None else 0.5 * (p.detach() - end.detach())
        expected.step()
        assert torch.allclose(weights(learned.network), weights(meta), atol=1e-7)


def target_of(source: object) -> MetaInvertedLatents:
    assert isinstance(source, TrainedSource)
    assert isinstance(source.target, MetaInvertedLatents)
    return source.target


def test_a_batch_begins_where_the_meta_generator_stands_and_its_latents_anew() -> None:
    spec = fast_dfkd(latent=5, bn_weight=0.0, steps_per_batch=2).sources["generator"].spec
    assert isinstance(spec, TrainedGenerator)
    source = context_of(network(2), SHAPE, CLASSES, plan=Plan(64, 4)).part(spec)
    target = target_of(source)
    begun = weights(target.meta.network)
    assert torch.equal(weights(target.module.generator), begun)
    latents = target.module.latents.detach().clone()
    torch.autograd.backward(target.draw(4, rng(1), True).images.sum())
    target.backward()
    source.optimizer.step()
    target.stepped()
    moved = (target.module.latents - latents).abs().max()
    assert float(moved.detach()) == pytest.approx(0.01, rel=1e-3)  # the latents' own rate
    assert torch.equal(weights(target.meta.network), begun)
    target.finish()
    source.begin()
    assert not torch.equal(weights(target.meta.network), begun)
    assert torch.equal(weights(target.module.generator), weights(target.meta.network))
    assert not torch.equal(target.module.latents, latents)


def test_the_meta_generator_learns_once_in_a_batch() -> None:
    steps: list[int] = []
    method = fast_dfkd(latent=5, bn_weight=0.0, steps_per_batch=4)
    teachers = InProcess({"a": network(7), "b": network(8)}, SHAPE, CLASSES)
    plan, priors = Plan(88, 8, 10, student_batch=8), build_priors("noise")
    run = Distillation(network(2), method, teachers.cards, plan, priors)
    meta = target_of(run._scheduler.sources["generator"]).meta
    slopes: list[float] = []

    def note(*_: object) -> None:
        steps.append(run.generator_steps)
        slopes.append(sum(float(p.grad.abs().sum()) for p in meta.network.parameters()))  # type: ignore[union-attr]

    meta.optimizer.register_step_post_hook(note)
    drive(run.requests(), teachers.answer)
    assert steps == [3, 7]  # after the fourth and the eighth, before they are counted
    assert min(slopes) > 0  # of the batch's steps


def test_a_batch_under_way_is_set_back_with_the_meta_generator_and_its_slopes() -> None:
    context = context_of(network(2), SHAPE, CLASSES)
    one, other = (MetaLatentBatch(latent=5).build(context) for _ in range(2))
    for target in (one, other):
        assert isinstance(target, MetaInvertedLatents)
        target.begin(rng(0))
    begun = weights(one.meta.network)
    torch.autograd.backward(one.draw(8, rng(1), True).images.square().sum())
    one.backward()
    other.restore(one.state())
    for target in (one, other):
        target.finish()
        target.begin(rng(2))
    assert torch.equal(weights(one.module), weights(other.module))
    assert not torch.equal(weights(one.meta.network), begun)


@pytest.mark.parametrize("values", [{"meta_rate": 0.0}, {"latent_rate": -0.1}, {"reptile": -67.0}])
def test_rates_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match=r"meta initialisation: rates .* expected numbers > 0"):
        MetaLatentBatch(**values)  # type: ignore[arg-type]
