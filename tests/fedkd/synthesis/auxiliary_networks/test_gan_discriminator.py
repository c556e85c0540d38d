"""The discriminator against HiDFD's formulas, and from whom it learns."""

import math

import pytest
import torch
from torch import Tensor, nn

from fedkd.core.bank import Bank
from fedkd.core.source_types import Proposal, Turn
from fedkd.errors import SettingsError
from fedkd.losses import Batch
from fedkd.models import InProcess
from fedkd.protocol import Signal
from fedkd.synthesis import Discriminator, PublicSamples
from fedkd.synthesis.auxiliary_networks.gan_discriminator import (
    Side,
    TrainedDiscriminator,
    Verdict,
    discriminator_loss,
)
from tests.support.contexts import answered_by, context_of

SHAPE, K, B = (1, 8, 8), 3, 12
PUBLIC = PublicSamples()


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def verdict(seed: int) -> Verdict:
    draw = rng(seed)
    return Verdict(*(torch.randn(size, generator=draw) for size in [(B,), (B, 2 * K), (B, K)]))


def side(seed: int) -> Side:
    logits = torch.randn(B, K, generator=rng(seed))
    return Side(torch.rand(B, *SHAPE, generator=rng(seed)), logits, logits.argmax(1))


def alone(**settings: float) -> TrainedDiscriminator:
    """A discriminator that is handed both sides."""
    return TrainedDiscriminator(Discriminator(PUBLIC, **settings), None, SHAPE, K, seed=0)  # type: ignore[arg-type]


def nll(logits: Tensor, label: int) -> float:
    values = [math.exp(x) for x in logits.tolist()]
    return -math.log(values[label] / sum(values))


def test_its_loss_is_that_of_the_paper() -> None:
    real, fake, x, g = verdict(1), verdict(2), side(3), side(4)
    total = 0.0
    for i in range(B):
        total += max(0.0, 1 - float(real.score[i])) + max(0.0, 1 + float(fake.score[i]))
        total += 2.0 * nll(real.class_by_side[i], 2 * int(x.classes[i]))
        total += 2.0 * nll(fake.class_by_side[i], 2 * int(g.classes[i]) + 1)
        for logits in (x.logits[i], g.logits[i]):
            for estimate in (real.teacher_logits[i], fake.teacher_logits[i]):
                total += 0.3 * math.dist(logits.tolist(), estimate.tolist())
    settings = Discriminator(PUBLIC, sides=2.0, integration=0.3)
    value = discriminator_loss(settings, (real, x), (fake, g))
    assert float(value) == pytest.approx(total / B, rel=1e-5)


def test_it_learns_to_tell_two_sides_apart_and_what_teachers_say() -> None:
    discriminator = alone(rate=5e-3)
    bright, dark = torch.rand(B, *SHAPE, generator=rng(0)), torch.zeros(B, *SHAPE)
    classes, logits = torch.arange(B) % K, torch.full((B, K), 2.0)
    before = discriminator.judge(bright).teacher_logits.detach()
    losses = [
        discriminator.learn(Side(bright, logits, classes), Side(dark, logits, classes))
        for _ in range(40)
    ]
    with torch.no_grad():
        after, other = discriminator.judge(bright), discriminator.judge(dark)
    assert losses[-1] < losses[0] / 2
    assert float(after.score.min()) > float(other.score.max())
    assert float((after.teacher_logits - logits).norm()) < float((before - logits).norm()) / 2


def test_without_integration_nothing_is_learned_of_the_teachers() -> None:
    discriminator = alone(integration=0.0)
    discriminator.learn(side(1), side(2))
    gradients = [p.grad for p in discriminator.network.estimate.parameters()]
    assert all(g is None or not bool(g.any()) for g in gradients)


def test_judging_changes_nothing() -> None:
    discriminator = alone()
    before = {name: t.clone() for name, t in discriminator.network.state_dict().items()}
    discriminator.judge(torch.rand(2, *SHAPE, generator=rng(0)))
    after = discriminator.network.state_dict()
    assert all(torch.equal(t, before[name]) for name, t in after.items())


def network(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, K))


TEACHERS = InProcess({"a": network(1)}, SHAPE, K)


def test_it_learns_from_the_answered_batch_and_as_many_public_samples_before_it_judges() -> None:
    images = torch.randint(0, 256, (20, *SHAPE), generator=rng(5), dtype=torch.uint8)
    context = context_of(network(2), SHAPE, K, public=images, bank=Bank())
    spec = Discriminator(PUBLIC)
    auxiliary, public = context.part(spec), context.part(PUBLIC)
    proposal = public.propose(Turn(20, rng(0), 0.0))
    assert proposal is not None
    public.learn(answered_by(TEACHERS, proposal))
    twin = spec.build(context)
    twin.restore(auxiliary.state())
    targets = torch.arange(B) % K
    synthesised = Proposal(torch.rand(B, *SHAPE, generator=rng(6)), "generator")
    answered = answered_by(TEACHERS, synthesised)
    pixels = (answered.images.float() / 255).requires_grad_()
    batch = Batch(pixels, {Signal.LOGITS: answered.target}, answered.target, class_targets=targets)
    read = auxiliary.observe(batch, answered, rng(7))

    some, logits = public.known(B, rng(7))
    assert torch.allclose(logits, logits_of(some), atol=2e-3)  # rounded, as on the wire
    loss = twin.learn(
        Side(some.float() / 255, logits, logits.argmax(1)),
        Side(pixels.detach(), answered.target, targets),
    )
    assert math.isfinite(loss)
    expected = twin.judge(pixels)
    assert torch.equal(read.score, expected.score)
    assert torch.equal(read.class_by_side, expected.class_by_side)
    (slope,) = torch.autograd.grad(read.score.sum(), pixels)
    assert bool(slope.any())


def logits_of(images: Tensor) -> Tensor:
    with torch.no_grad():
        return network(1)(images.float() / 255)


def test_a_surrogate_step_or_images_of_no_class_teach_it_nothing() -> None:
    images = torch.randint(0, 256, (4, *SHAPE), generator=rng(5), dtype=torch.uint8)
    context = context_of(network(2), SHAPE, K, public=images)
    auxiliary = context.part(Discriminator(PUBLIC))
    proposal = Proposal(images.float() / 255, "generator")
    answered = answered_by(TEACHERS, proposal)
    batch = Batch(images.float() / 255, {Signal.LOGITS: answered.target}, answered.target)
    for seen in (None, answered):
        with pytest.raises(SettingsError, match="learns from answers to class-conditional images"):
            auxiliary.observe(batch, seen, rng(0))


def test_it_is_set_back_with_its_momenta() -> None:
    one, other = alone(), alone()
    one.learn(side(1), side(2))
    other.restore(one.state())
    assert one.learn(side(3), side(4)) == other.learn(side(3), side(4))
    assert one.learn(side(5), side(6)) == other.learn(side(5), side(6))


@pytest.mark.parametrize("values", [{"rate": 0.0}, {"sides": -1.0}, {"integration": -0.1}])
def test_numbers_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match="expected a rate > 0 and weights >= 0"):
        alone(**values)
