"""Fused rows have the mean relation as their Gram matrix."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedkd.aggregation.embedding_fusion import (
    as_outputs,
    build_embedding_fusion,
    relation_factor,
)
from fedkd.aggregation.fixed_rule_aggregation import RuleAggregation
from fedkd.aggregation.fusion_of_cards import build_fusion
from fedkd.core.source_types import Proposal
from fedkd.errors import SettingsError
from fedkd.protocol import Answers, Card, LabelSpaces, Reply, Signal, cosine_relations, rounded

RELATIONS, FEATURES, LOGITS = Signal.RELATIONS, Signal.FEATURES, Signal.LOGITS
SHAPE = (1, 2, 2)
WIDTHS = {"east": 3, "north": 5, "west": 3}
CARDS = tuple(
    Card(name, width, SHAPE, frozenset({RELATIONS}), embedding=True)
    for name, width in WIDTHS.items()
)
PROPOSAL = Proposal(torch.zeros(1, *SHAPE), "pink")


def features(width: int, rows: int, seed: int) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def answers(rows: int = 12, seed: int = 0, exact: bool = True) -> Answers:
    """Relations of every institution."""
    return {
        name: Reply(
            {
                RELATIONS: rounded(
                    cosine_relations(features(width, rows, seed + at)), RELATIONS, exact
                )
            }
        )
        for at, (name, width) in enumerate(WIDTHS.items())
    }


def mean_relation(given: Answers) -> Tensor:
    return torch.stack([reply.signals[RELATIONS].float() for reply in given.values()]).mean(0)


def fused(given: Answers) -> Tensor:
    return build_fusion("auto", CARDS).of(as_outputs(given, RELATIONS, CARDS))[LOGITS]


@given(st.integers(1, 20), st.integers(0, 2**32), st.booleans())
def test_the_gram_matrix_of_targets_is_the_mean_relation(rows: int, seed: int, exact: bool) -> None:
    given_ = answers(rows, seed, exact)
    target = fused(given_)
    assert target.shape == (rows, sum(WIDTHS.values()))
    close = 1e-5 if exact else 0.06  # a rounded matrix is of a little higher rank
    assert float((target @ target.T - mean_relation(given_)).abs().max()) < close


def test_who_is_away_weighs_nothing() -> None:
    two = {name: reply for name, reply in answers().items() if name != "north"}
    target = fused(two)
    torch.testing.assert_close(target @ target.T, mean_relation(two), rtol=0, atol=1e-5)
    assert float(target[:, 3:8].abs().max()) == 0


def test_what_is_no_relation_does_no_harm() -> None:
    wild = torch.tensor([[9e4, -9e4], [3.0, -9e4]]).half()
    factor = relation_factor(wild, 3)
    assert factor.shape == (2, 3)
    assert bool(factor.isfinite().all())
    assert float((factor @ factor.T).abs().max()) <= 2.01


def test_an_excluded_institution_leaves_every_target() -> None:
    aggregation = RuleAggregation("mean_relations", None)
    aggregation.fusion(CARDS)
    labels = LabelSpaces.of(CARDS)
    for seed in (0, 7):
        given_ = as_outputs(answers(seed=seed), RELATIONS, CARDS)
        aggregation.hear(given_, labels, None, PROPOSAL)
    targets = aggregation.exclude(["west"], CARDS)
    assert targets is not None
    for at, seed in ((slice(0, 12), 0), (slice(12, 24), 7)):
        left = {name: reply for name, reply in answers(seed=seed).items() if name != "west"}
        own = targets[at]
        torch.testing.assert_close(own @ own.T, mean_relation(left), rtol=0, atol=5e-3)


def test_features_of_one_institution_stay_as_they_are() -> None:
    card = Card("north", 5, SHAPE, frozenset({FEATURES}), embedding=True)
    own = features(5, 4, 0)
    given_ = as_outputs({"north": Reply({FEATURES: own})}, FEATURES, [card])
    assert torch.equal(build_embedding_fusion("mean_features", [card]).of(given_)[LOGITS], own)


def test_rules_that_mean_nothing_are_refused() -> None:
    with pytest.raises(SettingsError, match="mean_relations"):
        build_fusion("log_linear_pool", CARDS)
    with pytest.raises(SettingsError, match="different widths"):
        build_fusion("mean_features", CARDS)


def test_a_student_is_as_wide_as_the_widest_and_taught_whole_by_everybody() -> None:
    labels = LabelSpaces.of(CARDS)
    assert labels.names == ("0", "1", "2", "3", "4")
    outputs = features(5, 3, 0)
    assert all(torch.equal(labels.to_local(name, outputs), outputs) for name in WIDTHS)
