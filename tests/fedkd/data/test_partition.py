"""Partitions deal every image once, again the same, and as skewed as they were told to."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedkd.data.partition import assign_samples, partition
from fedkd.errors import SettingsError

WAYS = st.sampled_from(["iid", "dirichlet", "shards"])
BALANCED = torch.arange(1000) % 10


@given(
    labels=st.lists(st.integers(0, 4), min_size=60, max_size=200),
    count=st.integers(1, 5),
    how=WAYS,
    alpha=st.floats(0.5, 100),
    each=st.integers(1, 4),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_image_is_dealt_once_and_again_the_same(
    labels: list[int], count: int, how: str, alpha: float, each: int, seed: int
) -> None:
    def deal() -> tuple[torch.Tensor, ...]:
        return partition(
            torch.tensor(labels),
            count,
            how,
            alpha=alpha,
            shards_per_institution=each,
            seed=seed,
            least=1,
        )

    parts = deal()
    assert len(parts) == count
    assert all(part.dtype == torch.int64 for part in parts)
    assert sorted(torch.cat(parts).tolist()) == list(range(len(labels)))
    assert all(torch.equal(a, b) for a, b in zip(parts, deal(), strict=True))


@given(seed=st.integers(0, 2**32 - 1))
def test_nobody_is_left_with_less_than_the_least(seed: int) -> None:
    parts = partition(BALANCED, 10, alpha=0.1, seed=seed, least=20)
    assert min(len(part) for part in parts) >= 20


@pytest.mark.parametrize("how", ["iid", "dirichlet", "shards"])
def test_another_seed_deals_otherwise(how: str) -> None:
    one, other = (partition(BALANCED, 4, how, seed=seed) for seed in (0, 1))
    assert any(not torch.equal(a, b) for a, b in zip(one, other, strict=True))


def skew(alpha: float, seeds: range) -> float:
    """Mean share of an institution's commonest class, over institutions and seeds."""
    shares = [
        torch.bincount(BALANCED[part]).max() / len(part)
        for seed in seeds
        for part in partition(BALANCED, 5, alpha=alpha, seed=seed)
    ]
    return float(torch.stack(shares).mean())


def test_a_small_alpha_is_more_skewed_than_a_large_one() -> None:
    assert skew(0.1, range(20)) - skew(100, range(20)) > 0.25
    same_alpha = abs(skew(0.1, range(20)) - skew(0.1, range(20, 40)))
    assert same_alpha < 0.08, "the same alpha must not look like two"


def test_shards_give_few_classes_and_iid_gives_all() -> None:
    shards = partition(BALANCED, 10, "shards", shards_per_institution=2)
    assert max(len(BALANCED[part].unique()) for part in shards) <= 4
    assert {len(part) for part in shards} == {100}
    iid = partition(BALANCED, 10, "iid")
    assert min(len(BALANCED[part].unique()) for part in iid) == 10


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"how": "random"}, "unknown partition"),
        ({"count": 0}, "must be 1 or more"),
        ({"shards_per_institution": 0}, "must be 1 or more"),
        ({"alpha": 0.0}, "alpha"),
        ({"alpha": float("nan")}, "alpha"),
        ({"seed": -1}, "seed"),
        ({"count": 600}, "fewer than 2"),
        ({"count": 600, "how": "iid"}, "fewer than 2"),
    ],
)
def test_the_impossible_is_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        partition(BALANCED, **({"count": 5} | arguments))


def test_labels_that_leave_an_institution_without_samples_are_told_with_its_number() -> None:
    labels = torch.arange(8).repeat_interleave(10)
    halves = [labels.argsort()[:40], labels.argsort()[40:]]
    sets = [[str(k) for k in range(7)], ["6", "7"]]
    own = assign_samples(halves, labels, labels, 8, sets)
    assert sorted(torch.cat(tuple(own.parts)).tolist()) == list(range(80))
    parts, every = [torch.arange(79), torch.tensor([79])], [str(k) for k in range(8)]
    with pytest.raises(SettingsError, match="institution 1, which knows 0, has 0 samples of these"):
        assign_samples(parts, labels, labels, 8, [every, ["0"]])
