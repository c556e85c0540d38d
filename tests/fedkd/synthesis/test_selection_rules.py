"""Selection rules of the pool: thresholds, prototypes and disagreement, by hand and by controls."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from torch import Tensor

from fedkd.errors import SettingsError
from fedkd.student.class_thresholds import class_thresholds, threshold_ratios
from fedkd.synthesis import rule_named
from fedkd.synthesis.public_pool import SELECTION_RULES, PoolView
from fedkd.synthesis.public_pool.selection_rules import (
    disagreement_of,
    k_means,
    prototypes_of,
    scaled,
)

K = 3


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def view_of(seed: int, candidates: int, answered: int) -> PoolView:
    r = rng(seed)
    return PoolView(
        torch.randn(candidates, K, generator=r).softmax(1),
        torch.randn(candidates, 4, generator=r),
        torch.randn(answered, 4, generator=r),
        torch.randn(answered, K, generator=r).softmax(1),
        torch.rand(answered, generator=r),
    )


def two_kinds() -> tuple[PoolView, Tensor]:
    """Candidates of two places, and which are good: there the institutions agree."""
    good = torch.arange(40) % 2 == 0
    at = torch.where(good, 0.0, 5.0)[:, None]
    features = at + 0.1 * torch.randn(40, 4, generator=rng(1))
    sure = torch.where(torch.arange(40) % 4 < 2, 0.5, 0.9)  # of half of the junk, and of the good
    probabilities = torch.stack([sure, (1 - sure) / 2, (1 - sure) / 2], 1)
    view = PoolView(
        probabilities[:20],
        features[:20],
        features[20:],
        probabilities[20:],
        torch.where(good[20:], 0.05, 0.8),
    )
    return view, good[:20]


def test_a_threshold_is_that_of_the_paper() -> None:
    found = class_thresholds(torch.tensor([10, 5, 0]))
    assert found.tolist() == pytest.approx([0.95, 0.95 * 0.5 / 1.5, 0.0])
    assert class_thresholds(torch.zeros(3, dtype=torch.long)).tolist() == [0.0, 0.0, 0.0]
    ratios = threshold_ratios(torch.tensor([[0.6, 0.2, 0.2], [0.1, 0.1, 0.8]]), found)
    assert ratios.tolist() == pytest.approx([0.6 / 0.95, math.inf])


@given(st.lists(st.integers(0, 500), min_size=1, max_size=20))
def test_a_rarer_class_never_has_the_higher_threshold(counts: list[int]) -> None:
    thresholds = class_thresholds(torch.tensor(counts))
    assert bool(((thresholds >= 0) & (thresholds <= 0.95 + 1e-6)).all())
    for i, one in enumerate(counts):
        for j, other in enumerate(counts):
            assert one < other or thresholds[i] >= thresholds[j]


def test_disagreement_is_mutual_information() -> None:
    p, q = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    agree, apart = torch.stack([p, p]), torch.stack([p, q])
    both = torch.stack([agree, apart], 1)  # (T, B, K)
    assert disagreement_of(both).tolist() == pytest.approx([0.0, math.log(2)])
    unsure = torch.full((2, 1, 2), 0.5)
    assert disagreement_of(unsure).tolist() == pytest.approx([0.0])
    assert disagreement_of(unsure[:1]).tolist() == pytest.approx([math.log(2)])


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), count=st.integers(1, 30), most=st.integers(1, 5))
def test_clusters_have_their_members_mean_and_none_is_empty(
    seed: int, count: int, most: int
) -> None:
    points = torch.randn(count, 3, generator=rng(seed), dtype=torch.float64)
    centres, cluster = k_means(points, most)
    assert 1 <= len(centres) <= min(most, count)
    assert set(cluster.tolist()) == set(range(len(centres)))
    inertia = float((points - centres[cluster]).square().sum())
    fitted = KMeans(len(centres), init=centres.numpy(), n_init=1).fit(points.numpy())
    assert inertia <= 1.25 * fitted.inertia_ + 1e-9


def test_alike_points_are_one_cluster() -> None:
    centres, cluster = k_means(torch.ones(5, 2), 3)
    assert (centres.tolist(), cluster.tolist()) == ([[1.0, 1.0]], [0] * 5)


def test_prototypes_are_of_one_class_each() -> None:
    view = view_of(3, 1, 60)
    found = prototypes_of(view.answered_features, view.answers, view.disagreement)
    named = view.answers.argmax(1)
    assert set(found.classes.tolist()) == set(named.tolist())
    for label in range(K):
        own = found.classes == label
        assert 1 <= int(own.sum()) <= 3
        inside = view.disagreement[named == label]
        assert bool((found.disagreement[own] <= inside.max()).all())
        assert bool((found.disagreement[own] >= inside.min()).all())


def test_what_lies_where_institutions_agree_is_chosen() -> None:
    view, good = two_kinds()
    chosen = SELECTION_RULES["prototypes"](view, 5, rng(0))
    assert bool(good[chosen].all())
    by_confidence = view.probabilities.max(1).values.argsort(descending=True)[:10]
    assert int(good[by_confidence].sum()) == 5
    reversed_agreement = PoolView(
        view.probabilities,
        view.features,
        view.answered_features,
        view.answers,
        1 - view.disagreement,
    )
    misled = SELECTION_RULES["prototypes"](reversed_agreement, 5, rng(0))
    assert int(good[misled].sum()) == 0


def test_the_threshold_rule_and_its_reverse_begin_at_opposite_ends() -> None:
    view = view_of(5, 40, 5)
    best = SELECTION_RULES["threshold"](view, 40, rng(0))
    worst = SELECTION_RULES["threshold_reversed"](view, 40, rng(0))
    counts = view.probabilities.argmax(1).bincount(minlength=K)
    ratios = threshold_ratios(view.probabilities, class_thresholds(counts))
    assert bool((ratios[best].diff() <= 0).all())
    assert bool((ratios[worst].diff() >= 0).all())
    assert ratios[best[0]] > ratios[worst[0]]


@settings(deadline=None, max_examples=25)
@given(
    name=st.sampled_from(sorted(SELECTION_RULES)),
    seed=st.integers(0, 99),
    candidates=st.integers(1, 30),
    count=st.integers(1, 40),
)
def test_every_rule_chooses_each_candidate_once_at_most(
    name: str, seed: int, candidates: int, count: int
) -> None:
    chosen = rule_named(name)(view_of(seed, candidates, 7), count, rng(seed)).tolist()
    assert len(set(chosen)) == len(chosen) == min(count, candidates)
    assert set(chosen) <= set(range(candidates))


def test_values_are_scaled_to_the_unit_interval() -> None:
    assert scaled(torch.tensor([3.0, 1.0, 2.0])).tolist() == [1.0, 0.0, 0.5]
    assert scaled(torch.ones(3)).tolist() == [0.0, 0.0, 0.0]


def test_an_unknown_rule_is_told() -> None:
    with pytest.raises(SettingsError, match="unknown selection rule 'best'; choose one of proto"):
        rule_named("best")
