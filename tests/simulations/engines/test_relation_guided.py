"""Groups by relations: found where they are, and compared with one another without labels."""

import numpy as np
import pytest
import torch
from torch import Tensor

from fedkd.simulations.engines.relation_guided import (
    clustering_accuracy,
    groups_of,
    relation_guided,
)

TRUTH = torch.arange(3).repeat_interleave(12)


def blocks(groups: Tensor, near: float = 0.9, far: float = 0.05) -> Tensor:
    return torch.where(groups[:, None] == groups, near, far).fill_diagonal_(1.0)


def test_blocks_of_a_relation_are_its_groups() -> None:
    shuffled = torch.randperm(36, generator=torch.Generator().manual_seed(0))
    found = groups_of(blocks(TRUTH[shuffled]), 3)
    assert clustering_accuracy(found, TRUTH[shuffled].numpy()) == 1.0


def test_accuracy_is_under_the_best_matching() -> None:
    groups, truth = np.array([2, 2, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 2, 1])
    assert clustering_accuracy(groups, truth) == pytest.approx(5 / 6)
    assert clustering_accuracy(np.zeros(4, np.int64), np.array([0, 1, 2, 3])) == 0.25


def test_institutions_that_see_other_groups_are_told_without_labels() -> None:
    other = TRUTH.roll(6)
    found = relation_guided(
        {"mean": blocks(TRUTH), "same": blocks(TRUTH), "other": blocks(other)}, 3
    )
    assert found["same"] == {"same_groups": 1.0}
    assert found["other"]["same_groups"] < 0.5
    scored = relation_guided({"mean": blocks(TRUTH), "other": blocks(other)}, 3, TRUTH)
    assert scored["mean"]["accuracy"] == 1.0
    assert scored["other"]["accuracy"] == pytest.approx(0.5)
