"""Procedural priors as a source: each chosen by how its samples spread over the classes."""

import math

import pytest
import torch
from torch import Tensor, nn

from fedkd.core.source_types import Turn
from fedkd.procedural import UniformNoise, build_priors, render
from fedkd.synthesis import ProceduralPriors
from fedkd.synthesis.prior_sampling.prior_source import PriorChoice
from fedkd.tasks import Classification
from tests.support.contexts import answered_with, context_of

SHAPE, K = (1, 6, 6), 4
FOUR = Classification(tuple("0123"))


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def decisions(*classes: int) -> Tensor:
    """Logits (B, K) with these decisions."""
    return torch.eye(K)[list(classes)] * 5


EVERY, TWO, ONE = decisions(0, 1, 2, 3), decisions(0, 0, 1, 1), decisions(2, 2, 2, 2)


def choice(names: str = "abc", **settings: float) -> PriorChoice:
    return PriorChoice({name: UniformNoise() for name in names}, SHAPE, FOUR, **settings)


def drawn_after(source: PriorChoice, many: int = 300) -> dict[str, int]:
    """How often each prior is drawn from."""
    generator = rng()
    origins = [source.draw(1, generator).origin for _ in range(many)]
    return {name: origins.count(name) for name in source.priors}


def test_every_prior_is_tried_once_before_any_is_preferred() -> None:
    source, tried = choice("abcd"), []
    for target in (EVERY, ONE, TWO, ONE):
        proposal = source.propose(Turn(4, rng(), 0.0))
        assert proposal is not None
        assert proposal.images.shape == (4, *SHAPE)
        tried.append(proposal.origin)
        assert source.learn(answered_with(proposal, target)) is None
    assert tried == ["a", "b", "c", "d"]
    assert source.class_entropy == pytest.approx({"a": 1.0, "b": 0.0, "c": 0.5, "d": 0.0})
    assert source.facts == {"class_entropy": source.class_entropy}


def test_priors_are_drawn_by_the_softmax_of_their_entropy() -> None:
    source = choice(sharpness=0.5)
    for name, target in zip("abc", (EVERY, TWO, ONE), strict=True):
        source.hear(name, target)
    weight = torch.tensor([1.0, 0.5, 0.0]).div(0.5).softmax(0)
    often = drawn_after(source, 2000)
    for name, w in zip("abc", weight.tolist(), strict=True):
        assert often[name] / 2000 == pytest.approx(w, abs=5 * math.sqrt(w * (1 - w) / 2000))


def test_priors_that_excite_alike_are_drawn_alike() -> None:
    source = choice()
    for name in "abc":
        source.hear(name, TWO)
    assert min(drawn_after(source).values()) > 60


def test_sharper_is_more_faithful_to_the_entropy() -> None:
    sharp, blunt = choice("ab", sharpness=0.05), choice("ab", sharpness=5.0)
    for source in (sharp, blunt):
        source.hear("a", EVERY)
        source.hear("b", TWO)
    assert drawn_after(sharp)["b"] == 0
    assert drawn_after(blunt)["b"] > 100


def test_only_the_last_batches_are_remembered() -> None:
    source = choice("a", memory=2)
    for target in (ONE, ONE, EVERY, EVERY):
        source.hear("a", target)
    assert source.class_entropy["a"] == pytest.approx(1.0)


def test_a_prior_that_tires_is_left_for_another() -> None:
    source = choice("ab", memory=3)
    source.hear("a", EVERY)
    source.hear("b", TWO)
    before = drawn_after(source)
    for _ in range(3):
        source.hear("a", ONE)
    after = drawn_after(source)
    assert before["a"] > 250
    assert after["b"] > 250


def test_what_others_drew_teaches_nothing_about_priors() -> None:
    source = choice()
    source.hear("generator", EVERY)
    assert source.class_entropy == {}


def test_what_was_remembered_is_set_back() -> None:
    source, again = choice("ab", memory=3), choice("ab", memory=3)
    for target in (ONE, EVERY, TWO, TWO):
        source.hear("a", target)
    again.hear("b", ONE)
    again.restore(source.state())
    assert again.class_entropy == source.class_entropy
    assert again.untried == ["b"]
    for each in (source, again):
        each.hear("a", ONE)
        each.hear("b", TWO)
    assert drawn_after(again) == drawn_after(source)


def test_the_settings_build_a_choice_among_the_priors_of_the_run_which_draw_by_recipe() -> None:
    context = context_of(nn.Identity(), SHAPE, K, priors=build_priors("pink", "noise"))
    source = context.part(ProceduralPriors(sharpness=0.3, memory=2))
    assert list(source.priors) == ["pink", "noise"]
    assert source.sharpness == 0.3
    proposal = source.propose(Turn(3, rng(), 0.0))
    assert proposal is not None
    assert proposal.origin == "pink"
    assert proposal.recipe is not None
    assert torch.equal(proposal.images, render(proposal.recipe, SHAPE))
