"""A generator network as a synthesis target: latents, classes, and the mean of its weights."""

import copy

import pytest
import torch
from torch import Tensor, nn

from fedkd.errors import SettingsError
from fedkd.models import Generator
from fedkd.procedural import render
from fedkd.synthesis import GeneratorNetwork
from fedkd.synthesis.generator_parameterisation import GeneratorParameterisation
from tests.support.contexts import context_of

SHAPE, K = (1, 6, 6), 4


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def target(seed: int = 0, **settings: object) -> GeneratorParameterisation:
    spec = GeneratorNetwork(**{"latent": 8, **settings})  # type: ignore[arg-type]
    return spec.build(context_of(nn.Identity(), SHAPE, K, seed=seed))


def weights(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def step(of: GeneratorParameterisation, seed: int) -> None:
    """One step of an optimiser, as training takes it."""
    (group,) = of.groups()
    optimizer = torch.optim.SGD(group["params"], 0.01)
    of.draw(5, rng(seed), learning=True).images.square().sum().backward()
    optimizer.step()
    of.stepped()
    optimizer.zero_grad()


def test_it_draws_with_the_graph_through_which_it_learns() -> None:
    source = target()
    drawn = source.draw(5, rng(1), learning=True)
    assert drawn.images.shape == (5, *SHAPE)
    assert drawn.images.requires_grad
    assert 0 <= float(drawn.images.detach().min()) <= float(drawn.images.detach().max()) <= 1
    assert torch.equal(drawn.images, source.draw(5, rng(1), learning=True).images)
    assert not torch.equal(drawn.images, source.draw(5, rng(2), learning=True).images)
    assert drawn.class_targets is None
    drawn.images.sum().backward()
    (group,) = source.groups()
    assert len(group["params"]) == len(list(source.network.parameters()))
    assert all(p.grad is not None for p in group["params"])


def test_first_weights_are_those_of_the_runs_seed() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(6)
        expected = weights(Generator(8, SHAPE))
    assert torch.equal(weights(target(seed=6).network), expected)
    assert not torch.equal(weights(target(seed=7).network), expected)


def test_one_that_learns_no_more_draws_by_a_recipe_that_anybody_can_render() -> None:
    drawn = target().draw(5, rng(1), learning=False)
    assert drawn.recipe is not None
    assert not drawn.images.requires_grad
    assert torch.equal(drawn.images, render(drawn.recipe, SHAPE))


@pytest.mark.parametrize("learning", [True, False])
def test_a_class_conditional_one_is_told_the_class_that_each_image_is_to_show(
    learning: bool,
) -> None:
    source = target(class_conditional=True)
    assert source.network.latent == 8 + K
    drawn = source.draw(2000, rng(1), learning)
    assert drawn.class_targets is not None
    assert drawn.recipe is None
    assert min(drawn.class_targets.bincount(minlength=K).tolist()) > 400
    stream = rng(1)
    z = torch.randn(2000, 8, generator=stream)
    told = torch.eye(K)[torch.randint(K, (2000,), generator=stream)]
    assert torch.equal(told.argmax(1), drawn.class_targets)
    expected = copy.deepcopy(source.network).train(learning)(torch.cat([z, told], 1))
    assert torch.allclose(drawn.images, expected, atol=1e-6)


def test_the_mean_of_its_weights_draws_once_it_learns_no_more() -> None:
    source = target(averaging=0.75)
    assert source.average is not None
    mean = None
    for seed in range(3):
        step(source, seed)
        now = weights(source.network)
        mean = now if mean is None else 0.75 * mean + 0.25 * now
    assert mean is not None
    assert torch.allclose(weights(source.average), mean, atol=1e-6)
    assert not torch.allclose(weights(source.network), mean, atol=1e-4)
    drawn = source.draw(5, rng(9), learning=False)
    z = torch.randn(5, 8, generator=rng(9))
    with torch.no_grad():
        expected, last = (of.eval()(z) for of in (source.average, source.network))
    assert torch.equal(drawn.images, expected)
    assert not torch.equal(drawn.images, last)
    again = target(seed=1, averaging=0.75)
    again.restore(source.state())
    assert torch.equal(again.draw(5, rng(9), learning=False).images, drawn.images)
    assert torch.equal(weights(again.network), weights(source.network))


def test_a_mean_that_begins_late_is_of_the_steps_since_then() -> None:
    source = target(averaging=0.75, averaging_from=2)
    assert source.average is not None
    mean = None
    for seed in range(4):
        step(source, seed)
        now = weights(source.network)
        if seed < 2:
            assert torch.equal(weights(source.average), now)
        mean = now if mean is None or seed < 2 else 0.75 * mean + 0.25 * now
        if seed == 2:  # begun again from here, it goes on as if it had not been set down
            again = target(seed=1, averaging=0.75, averaging_from=2)
            again.restore(source.state())
    assert mean is not None
    assert torch.allclose(weights(source.average), mean, atol=1e-6)
    assert again._steps == 3


@pytest.mark.parametrize(
    "values",
    [{"latent": 0}, {"averaging": 1.0}, {"averaging": -0.1}, {"averaging_from": -1}],
)
def test_numbers_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match=r"generator network: .* expected >= 1, in \[0, 1\)"):
        GeneratorNetwork(**values)  # type: ignore[arg-type]
