"""Candidates of priors: drawn for nothing, and chosen by the student's class of them."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fedkd.core.source_types import Proposal, Turn
from fedkd.errors import SettingsError
from fedkd.procedural import Shape, build_priors, render
from fedkd.synthesis import CandidateSelection, ProceduralPriors
from fedkd.synthesis.prior_sampling.candidate_selection import (
    SelectedCandidates,
    class_balancing_weights,
)
from tests.support.contexts import answered_with, context_of

SHAPE, K = (1, 4, 4), 4


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Rare:
    """A prior whose images are of class 0, but for one in twenty of each other class."""

    def draw(self, count: int, shape: Shape, rng: torch.Generator) -> Tensor:
        classes = torch.randint(20, (count,), generator=rng)
        classes = torch.where(classes < K, classes, torch.zeros_like(classes))
        images = torch.randint(0, 2, (count, *shape), dtype=torch.uint8, generator=rng)
        images[:, 0, 0, 0] = classes.to(torch.uint8)
        return images


class Sees(nn.Module):
    """A student that sees the class that the first pixel names."""

    def forward(self, images: Tensor) -> Tensor:
        named = (images[:, 0, 0, 0] * 255).round().long() % K
        return torch.eye(K)[named] * 5


def selected(candidates: int = 8, **changes: object) -> SelectedCandidates:
    priors = ProceduralPriors()
    context = context_of(Sees(), SHAPE, K, **{"priors": {"rare": Rare()}, **changes})
    return CandidateSelection(priors, candidates).build(context)


def propose(source: SelectedCandidates, count: int, seed: int = 0) -> Proposal:
    proposal = source.propose(Turn(count, rng(seed), 0.0))
    assert proposal is not None
    assert len(proposal.images) == count
    return proposal


def classes_of(proposal: Proposal) -> Tensor:
    return proposal.images[:, 0, 0, 0].long()


def answered(source: SelectedCandidates, proposal: Proposal) -> None:
    assert source.learn(answered_with(proposal, torch.eye(K)[classes_of(proposal)] * 5)) is None


def shares_after(source: SelectedCandidates, questions: int = 12, count: int = 40) -> Tensor:
    answered(source, propose(source, count))
    asked = []
    for seed in range(1, questions):
        asked.append(proposal := propose(source, count, seed))
        answered(source, proposal)
    return torch.cat([classes_of(each) for each in asked]).bincount(minlength=K) / (
        count * (questions - 1)
    )


def test_classes_that_are_rare_in_the_prior_are_asked_about_more_often() -> None:
    plain = classes_of(propose(selected(), 2000)).bincount(minlength=K) / 2000
    assert plain[1:].max() < 0.07, "the first question is the prior's own"
    balanced = shares_after(selected(8))
    assert balanced[1:].min() > 0.2
    barely = shares_after(selected(2))
    assert plain[1:].max() < barely[1:].max() < balanced[1:].min(), "few candidates, few rare ones"


def test_chosen_candidates_have_a_recipe_that_renders_them() -> None:
    source = selected(4, priors=build_priors("noise"))
    first = propose(source, 6)
    source.learn(answered_with(first, torch.eye(K)[[0, 1, 2, 3, 0, 1]]))
    chosen = propose(source, 6, 1)
    assert chosen.recipe is not None
    assert chosen.recipe.count == 24
    assert torch.equal(render(chosen.recipe, SHAPE), chosen.images)


def test_a_source_that_is_restored_goes_on_as_it_would_have() -> None:
    one, other = selected(), selected()
    for seed in range(3):
        answered(one, propose(one, 20, seed))
    other.restore(one.state())
    assert torch.equal(propose(one, 20, 9).images, propose(other, 20, 9).images)
    answered(one, propose(one, 20, 9))
    assert one.state() != other.state()
    assert one.facts == {"class_entropy": one._prior.class_entropy}


@given(
    classes=st.lists(st.integers(0, K - 1), min_size=1, max_size=40),
    counts=st.lists(st.integers(0, 1000), min_size=K, max_size=K),
)
def test_a_class_has_the_weight_of_how_rarely_it_was_answered(
    classes: list[int], counts: list[int]
) -> None:
    weights = class_balancing_weights(torch.tensor(classes), torch.tensor(counts))
    for c in set(classes):
        mine = [float(w) for w, other in zip(weights, classes, strict=True) if other == c]
        assert sum(mine) == pytest.approx(1 / (1 + counts[c]))
        assert all(a == b for a, b in itertools.pairwise(mine))


@pytest.mark.parametrize("candidates", [0, 1])
def test_fewer_candidates_than_two_are_refused(candidates: int) -> None:
    with pytest.raises(SettingsError, match="expected 1, or more"):
        CandidateSelection(ProceduralPriors(), candidates)
