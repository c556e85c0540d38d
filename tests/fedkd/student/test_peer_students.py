"""Peers: networks like the student that begin elsewhere, and learn as if each were alone."""

import copy

import pytest
import torch
from torch import Tensor, nn

from fedkd.core.bank import Bank
from fedkd.core.interfaces import Context
from fedkd.errors import SettingsError
from fedkd.losses import Batch
from fedkd.models import reinitialised
from fedkd.student.peer_students import Peers
from fedkd.student.training import Trainer
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


def bank(count: int = 64) -> Bank:
    full = Bank()
    images = torch.randint(0, 256, (count, *SHAPE), generator=rng(1), dtype=torch.uint8)
    full.add(images, 3 * torch.randn(count, CLASSES, generator=rng(2)))
    return full


def trainer(of: nn.Module, context: Context, *parts: object) -> Trainer:
    return Trainer(of, context.loss, context.sample_weights, context.plan, parts=parts)  # type: ignore[arg-type]


def test_a_peer_begins_elsewhere_and_learns_as_if_it_were_alone() -> None:
    student = network(1)
    context = context_of(copy.deepcopy(student), SHAPE, CLASSES, seed=6)
    peers = context.part(Peers(1))
    (peer,) = peers.networks
    assert not torch.equal(weights(peer), weights(student))
    assert torch.equal(weights(peer), weights(reinitialised(student, 7)))
    pair = trainer(context.student, context, peers)
    lone, first = (trainer(copy.deepcopy(of), context) for of in (peer, student))
    for step in range(3):
        loss, _ = pair.step(bank(), rng(step), step, 0.5)
        alone, _ = first.step(bank(), rng(step), step, 0.5)
        lone.step(bank(), rng(step), step, 0.5)
        assert torch.equal(loss, alone)
    assert not torch.equal(weights(peer), weights(reinitialised(student, 7)))
    assert torch.equal(weights(peer), weights(lone.network))
    assert torch.equal(weights(pair.network), weights(first.network))


def test_terms_read_the_student_and_its_peers_differentiably_in_the_images_alone() -> None:
    student = network(1)
    peers = context_of(student, SHAPE, CLASSES).part(Peers(2))
    images = torch.rand(5, *SHAPE, generator=rng(0)).requires_grad_()
    own = student(images)
    read = peers.observe(Batch(images, {}, own), None, rng(0))
    assert read.shape == (3, 5, CLASSES)
    for logits, each in zip(read, [student, *peers.networks], strict=True):
        assert torch.allclose(logits, each(images), atol=1e-6)
    (slope,) = torch.autograd.grad(read[2].sum(), images)
    assert bool(slope.any())
    assert all(p.grad is None for n in peers.networks for p in n.parameters())


def test_peers_are_set_back_with_their_momenta() -> None:
    context = context_of(network(1), SHAPE, CLASSES)
    one, other = Peers(2).build(context), Peers(2).build(context)
    images, targets = bank().images, bank().targets
    one.follow(images, targets, 0, 0.0)
    other.restore(one.state())
    for peers in (one, other):
        peers.follow(images, targets, 1, 0.1)
    for here, there in zip(one.networks, other.networks, strict=True):
        assert torch.equal(weights(here), weights(there))


def test_every_peer_has_first_weights_of_its_own() -> None:
    student = network(1)
    peers = context_of(student, SHAPE, CLASSES, seed=6).part(Peers(3))
    for seed, peer in enumerate(peers.networks, 7):
        assert torch.equal(weights(peer), weights(reinitialised(student, seed)))
    assert not torch.equal(weights(peers.networks[0]), weights(peers.networks[1]))


@pytest.mark.parametrize("count", [0, -1])
def test_no_peers_are_refused(count: int) -> None:
    with pytest.raises(SettingsError, match=f"peers: {count}; expected >= 1"):
        Peers(count)
