"""Instance discrimination: images told apart by the student's features, as CMI has it."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedkd.errors import SettingsError
from fedkd.loop import Distillation, Plan, drive
from fedkd.losses import Batch
from fedkd.methods import cmi
from fedkd.models import InProcess, Network, build_network, penultimate_features
from fedkd.procedural import build_priors
from fedkd.protocol import Answers, Ask, Request, Signal
from fedkd.synthesis import InstanceDiscriminator, TrainedSource
from fedkd.synthesis.auxiliary_networks.instance_discriminator import (
    TrainedInstanceDiscriminator,
    cropped,
)
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


SETTINGS = InstanceDiscriminator(
    temperature=0.3, negatives=5, capacity=12, width=6, rate=0.01, crop=0.25
)


def student() -> Network:
    made = build_network("cnn", CLASSES, SHAPE, 0).eval()
    assert isinstance(made, Network)
    return made


def discriminator(of: nn.Module, seed: int = 0, **changes: float) -> TrainedInstanceDiscriminator:
    settings = replace(SETTINGS, **changes)  # type: ignore[arg-type]
    return context_of(of, SHAPE, CLASSES, seed=seed).part(settings)


def test_its_loss_is_that_of_the_paper() -> None:
    own = student()
    how = discriminator(own, crop=1.0)  # a view is the image itself
    x = torch.rand(4, *SHAPE, generator=rng(0))
    seen = F.normalize(how.head(penultimate_features(own, x)), dim=1).tolist()

    def surprise(seen: list[list[float]], i: int) -> float:
        near = [sum(a * b for a, b in zip(seen[i], v, strict=True)) / 0.3 for v in seen]
        return math.log(sum(math.exp(n) for n in near)) - near[i]

    value = float(how.loss(x, rng(1)).detach())
    assert value == pytest.approx(sum(surprise(seen, i) for i in range(4)) / 4, rel=1e-4)
    before = torch.randint(0, 256, (5, *SHAPE), generator=rng(2), dtype=torch.uint8)
    how.finish(before)
    order = torch.randperm(5, generator=rng(1))
    both = torch.cat([x, before[order].float() / 255])
    seen = F.normalize(how.head(penultimate_features(own, both)), dim=1).tolist()
    each = [surprise(seen, i) for i in range(9)]
    value = float(how.loss(x, rng(1)).detach())
    assert value == pytest.approx(sum(each[:4]) / 4 + sum(each[4:]) / 5, rel=1e-4)


def test_slopes_pass_through_views_to_images_and_to_the_head() -> None:
    own = student()
    how = discriminator(own)
    x = torch.rand(4, *SHAPE, generator=rng(0)).requires_grad_()
    how.loss(x, rng(1)).backward()
    mine = torch.rand(4, *SHAPE, generator=rng(0)).requires_grad_()
    stream = rng(1)
    torch.randperm(0, generator=stream)
    views = F.normalize(how.head(own.embed(cropped(mine, 0.25, stream))), dim=1)
    whole = F.normalize(how.head(own.embed(mine)), dim=1).detach()
    near = (views @ whole.T / 0.3).log_softmax(1)
    (slope,) = torch.autograd.grad(-near.diagonal().mean(), mine)
    assert x.grad is not None
    assert torch.allclose(x.grad, slope, atol=1e-7)
    assert float(slope.abs().sum()) > 0
    before = weights(how.head)
    how.stepped()
    assert not torch.equal(weights(how.head), before)
    assert all(p.grad is None for p in how.head.parameters())


def test_the_oldest_images_give_way_and_a_sample_is_compared() -> None:
    how = discriminator(network(1))
    for value in range(5):
        how.finish(torch.full((4, *SHAPE), value, dtype=torch.uint8))
    assert how._before[:, 0, 0, 0].tolist() == [2] * 4 + [3] * 4 + [4] * 4
    other = discriminator(network(1), seed=9)
    other.restore(how.state())
    x = torch.rand(4, *SHAPE, generator=rng(0))
    assert torch.equal(other.loss(x, rng(3)), how.loss(x, rng(3)))


def test_a_view_is_a_part_of_its_own_image() -> None:
    x = torch.rand(50, 2, 8, 8, generator=rng(0))
    assert torch.allclose(cropped(x, 1.0, rng(1)), x, atol=1e-5)
    ramp = torch.linspace(0, 1, 8).expand(50, 1, 8, 8)
    seen = cropped(ramp, 0.25, rng(1))[:, 0, 0]
    span = seen[:, -1] - seen[:, 0]
    assert float(span.min()) > 0.4  # half a side at least
    assert float(span.max()) <= 1.0
    assert float(span.std()) > 0.05
    level = torch.arange(50.0).view(50, 1, 1, 1).expand(50, 1, 8, 8)
    assert torch.allclose(cropped(level, 0.25, rng(2)), level)


def test_terms_read_its_loss_of_the_batch() -> None:
    how, x = discriminator(student()), torch.rand(4, *SHAPE, generator=rng(0))
    batch = Batch(x, {}, torch.zeros(4, CLASSES))
    assert torch.equal(how.observe(batch, None, rng(1)), how.loss(x, rng(1)))


def test_it_learns_with_every_step_and_keeps_the_images_of_a_batchs_last_question() -> None:
    method, requests = cmi(latent=5, bn_weight=0.0, steps_per_batch=3, jitter=0.0), []
    teachers = InProcess({"a": network(7), "b": network(8)}, SHAPE, CLASSES)
    plan, priors = Plan(56, 8, 10, student_batch=8), build_priors("noise")

    def put(request: Request) -> Answers:
        requests.append(request)
        return teachers.answer(request)

    run = Distillation(network(2), method, teachers.cards, plan, priors)
    source = run._scheduler.sources["generator"]
    assert isinstance(source, TrainedSource)
    (auxiliary,) = source.auxiliary.parts.values()
    assert isinstance(auxiliary, TrainedInstanceDiscriminator)
    steps: list[int] = []
    auxiliary.optimizer.register_step_post_hook(lambda *_: steps.append(run.generator_steps))
    drive(run.requests(), put)
    asks = [r for r in requests if isinstance(r, Ask)]
    assert len(asks) == 7
    assert steps == list(range(7))  # with every step of the batch
    assert torch.equal(auxiliary._before, torch.cat([asks[2].images, asks[5].images]))
    assert all(a.signals == {Signal.LOGITS} for a in asks)


def test_contrast_makes_images_of_a_batch_easier_to_tell_apart() -> None:
    pixels = (0.5 + 0.02 * torch.randn(16, *SHAPE, generator=rng(0))).requires_grad_()
    how = discriminator(student())
    optimizer = torch.optim.Adam([pixels], 0.02)
    values = []
    for step in range(40):
        optimizer.zero_grad()
        value = how.loss(pixels, rng(step))
        value.backward()
        how.stepped()
        optimizer.step()
        values.append(float(value.detach()))
    assert sum(values[-5:]) < sum(values[:5]) - 0.5


@pytest.mark.parametrize(
    "values",
    [
        {"crop": 0.0},
        {"crop": 1.1},
        {"width": 0},
        {"capacity": 0},
        {"negatives": -1},
        {"temperature": math.nan},
        {"rate": 0.0},
    ],
)
def test_numbers_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match=r"InstanceDiscriminator.* is out of range; see its"):
        replace(SETTINGS, **values)  # type: ignore[arg-type]
