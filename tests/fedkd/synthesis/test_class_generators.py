"""A generator network for each class as a synthesis target."""

import pytest
import torch
from torch import Tensor, nn

from fedkd.errors import SettingsError
from fedkd.synthesis import GeneratorPerClass
from fedkd.synthesis.class_generators import ClassGenerators
from tests.support.contexts import context_of

SHAPE, K = (1, 6, 6), 4


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def target(steps: int = 3, seed: int = 0) -> ClassGenerators:
    return GeneratorPerClass(8, steps).build(context_of(nn.Identity(), SHAPE, K, seed=seed))


def weights(of: ClassGenerators) -> Tensor:
    return torch.cat([p.detach().flatten() for p in of.networks.parameters()])


@pytest.mark.parametrize("count", [2, 8, 9])
def test_every_class_is_drawn_as_often_by_its_own_network(count: int) -> None:
    source = target()
    drawn = source.draw(count, rng(1), learning=False)
    assert drawn.images.shape == (count, *SHAPE)
    assert not drawn.images.requires_grad
    assert drawn.class_targets is not None
    counts = drawn.class_targets.bincount(minlength=K)
    assert int(counts.max() - counts.min()) <= 1
    before = drawn.images.clone()
    with torch.no_grad():
        source.networks[2].conv3.bias.add_(5.0)  # type: ignore[union-attr,operator]
    after = source.draw(count, rng(1), learning=False).images
    changed = (after != before).flatten(1).any(1)
    assert torch.equal(changed, drawn.class_targets == 2)


def test_it_draws_with_the_graph_through_which_all_learn() -> None:
    source = target()
    source.draw(8, rng(1), learning=True).images.square().sum().backward()
    (group,) = source.groups()
    assert len(group["params"]) == sum(1 for _ in source.networks.parameters())
    assert all(p.grad is not None for p in group["params"])


def test_what_is_not_asked_about_is_the_same_without_a_graph() -> None:
    source = target()
    asked = source.draw(9, rng(1), learning=True).images
    own = source.draw_unasked(9, rng(1), training=True)
    assert not own.requires_grad
    assert torch.equal(own, asked.detach())


def test_all_begin_anew_and_each_as_the_stream_says() -> None:
    source = target(steps=7)
    assert source.steps_per_batch == 7
    first = weights(source)
    assert source.begin(rng(5))
    second = weights(source)
    assert source.begin(rng(6))
    third = weights(source)
    source.begin(rng(5))
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)
    assert torch.equal(second, weights(source))
    assert torch.equal(weights(target(seed=4)), weights(target(seed=4)))


def test_a_state_is_all_of_it() -> None:
    one, other = target(seed=1), target(seed=2)
    other.restore(one.state())
    drawn = [each.draw(9, rng(3), learning=False).images for each in (one, other)]
    assert torch.equal(*drawn)


@pytest.mark.parametrize("settings", [{"latent": 0}, {"steps": 0}])
def test_what_cannot_be_is_refused(settings: dict[str, int]) -> None:
    with pytest.raises(SettingsError, match="expected both >= 1"):
        GeneratorPerClass(**settings)
