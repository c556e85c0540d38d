"""The critic against HiDFD's formulas, and what a generator and its class counts hear of it."""

import math

import pytest
import torch
from fedkd.losses.rival_terms import category_frequency, realness
from torch import Tensor

from fedkd.core.bank import Bank
from fedkd.errors import SettingsError
from fedkd.losses.term import Batch
from fedkd.methods import cudfkd, hidfd
from fedkd.protocol import Signal
from fedkd.synthesis.discriminator import Critic, Judgement, Rivalry, Shown, rivals_apart
from fedkd.synthesis.public_samples import Collected, own_images

SHAPE, K, B = (1, 8, 8), 3, 12


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def judgement(seed: int) -> Judgement:
    draw = rng(seed)
    return Judgement(*(torch.randn(size, generator=draw) for size in [(B,), (B, 2 * K), (B, K)]))


def shown(seed: int) -> Shown:
    said = torch.randn(B, K, generator=rng(seed))
    return Shown(torch.rand(B, *SHAPE, generator=rng(seed)), said, said.argmax(1))


def nll(logits: Tensor, label: int) -> float:
    values = [math.exp(x) for x in logits.tolist()]
    return -math.log(values[label] / sum(values))


def test_the_critics_loss_is_that_of_the_paper() -> None:
    real, fake, x, g = judgement(1), judgement(2), shown(3), shown(4)
    total = 0.0
    for i in range(B):
        total += max(0.0, 1 - float(real.score[i])) + max(0.0, 1 + float(fake.score[i]))
        total += 2.0 * nll(real.sides[i], 2 * int(x.classes[i]))
        total += 2.0 * nll(fake.sides[i], 2 * int(g.classes[i]) + 1)
        for said in (x.said[i], g.said[i]):
            for believed in (real.beliefs[i], fake.beliefs[i]):
                total += 0.3 * math.dist(said.tolist(), believed.tolist())
    rivalry = Rivalry(sides=2.0, integration=0.3)
    assert float(rivals_apart(rivalry, (real, x), (fake, g))) == pytest.approx(total / B, rel=1e-5)


def test_a_critic_learns_to_tell_two_sides_apart_and_what_teachers_say() -> None:
    critic = Critic(Rivalry(rate=5e-3), SHAPE, K, seed=0)
    bright, dark = torch.rand(B, *SHAPE, generator=rng(0)), torch.zeros(B, *SHAPE)
    classes, said = torch.arange(B) % K, torch.full((B, K), 2.0)
    before = critic.judge(bright).beliefs.detach()
    losses = [
        critic.learn(Shown(bright, said, classes), Shown(dark, said, classes)) for _ in range(40)
    ]
    with torch.no_grad():
        after, other = critic.judge(bright), critic.judge(dark)
    assert losses[-1] < losses[0] / 2
    assert float(after.score.min()) > float(other.score.max())
    assert float((after.beliefs - said).norm()) < float((before - said).norm()) / 2


def test_without_integration_nothing_is_learned_of_the_teachers() -> None:
    critic = Critic(Rivalry(integration=0.0), SHAPE, K, seed=0)
    critic.learn(shown(1), shown(2))
    gradients = [p.grad for p in critic.network.beliefs.parameters()]
    assert all(g is None or not bool(g.any()) for g in gradients)


def test_judging_changes_nothing() -> None:
    critic = Critic(Rivalry(), SHAPE, K, seed=0)
    before = {name: t.clone() for name, t in critic.network.state_dict().items()}
    critic.judge(torch.rand(2, *SHAPE, generator=rng(0)))
    assert all(torch.equal(t, before[name]) for name, t in critic.network.state_dict().items())


def said_of(*classes: int) -> Batch:
    logits = 9.0 * torch.eye(K)[list(classes)]
    return Batch(torch.zeros(len(classes), *SHAPE), {Signal.LOGITS: logits}, logits)


def test_a_class_that_was_seldom_drawn_weighs_more_from_batch_to_batch() -> None:
    term = category_frequency()
    assert term.memory is not None
    batch = said_of(0, 0, 0, 0, 0, 0, 1, 1)
    n = term.memory(batch)
    assert n.tolist() == [28.0, 26.0, 25.0]
    for _ in range(40):
        again = said_of(0, 0, 0, 0, 0, 0, 1, 1)
        n = term.memory(Batch(again.images, again.teacher, again.student, previous={term.name: n}))
    assert n.tolist() == pytest.approx([6.0, 2.0, 1.0])
    weight = [0.01 / (1 - 0.99**x) for x in n.tolist()]
    weight = [K * w / sum(weight) for w in weight]
    mean = batch.teacher[Signal.LOGITS].softmax(1).mean(0).tolist()
    expected = sum(w * p * math.log(p) for w, p in zip(weight, mean, strict=True))
    now = Batch(batch.images, batch.teacher, batch.student, previous={term.name: n})
    assert float(term.value(now)) == pytest.approx(expected)
    assert float(category_frequency(beta=0.0).value(now)) == pytest.approx(
        sum(p * math.log(p) for p in mean)
    )


def test_terms_of_a_critic_say_what_is_missing() -> None:
    with pytest.raises(SettingsError, match="a method with a critic"):
        realness().value(said_of(0))
    with pytest.raises(SettingsError, match=r"beta 1\.0"):
        category_frequency(beta=1.0)


def test_what_was_collected_is_asked_about_once_and_known_by_what_was_said() -> None:
    images = torch.arange(5 * 64, dtype=torch.int32).remainder(251).to(torch.uint8).view(5, *SHAPE)
    own = own_images(torch.cat([images, images]), hidfd(), SHAPE)
    assert own is not None
    assert len(own) == 5
    bank = Bank()
    bank.add(own[:1], torch.zeros(1, K))
    collected = Collected(own, bank)
    drawn = []
    while collected.left:
        batch = collected.draw(3, rng(0))
        said = batch.images[:, 0, 0, :K].float()
        bank.add(batch.images, said)
        collected.learn("collected", said)
        drawn.append(batch.images)
    assert torch.equal(torch.cat(drawn), own[1:])
    seen, said = collected.known(50, rng(1))
    assert torch.equal(said, seen[:, 0, 0, :K].float())
    assert len(torch.unique(seen, dim=0)) == 4
    again = Collected(own, bank)
    with pytest.raises(SettingsError, match="no collected image was answered"):
        again.known(1, rng(1))
    again.restore(collected.state())
    assert torch.equal(again.known(50, rng(1))[0], seen)


def test_who_has_no_use_for_collected_images_or_cannot_be_without_is_told() -> None:
    images = torch.zeros(2, *SHAPE, dtype=torch.uint8)
    assert own_images(None, cudfkd(), SHAPE) is None
    with pytest.raises(SettingsError, match="cudfkd has no use for collected images"):
        own_images(images, cudfkd(), SHAPE)
    with pytest.raises(SettingsError, match=r"hidfd needs collected images; see images\.collected"):
        own_images(None, hidfd(), SHAPE)
    with pytest.raises(SettingsError, match=r"\(2, 1, 8, 8\), expected uint8 \(N, 3, 8, 8\)"):
        own_images(images, hidfd(), (3, 8, 8))
