"""Recall at k and comparisons of relations, against what is counted by hand."""

import pytest
import torch

from fedkd.evaluation import (
    cross_relations,
    recall_among,
    recall_at,
    relation_correlation,
    relation_error,
)

TRUTH = torch.tensor([0, 1, 2])
GALLERY_TRUTH = torch.tensor([0, 0, 1, 1, 2, 3])


def test_recall_counts_queries_that_find_their_class() -> None:
    relations = torch.tensor(
        [
            [0.9, 0.1, 0.2, 0.0, 0.0, 0.0],  # found first
            [0.8, 0.1, 0.7, 0.0, 0.0, 0.0],  # found second
            [0.9, 0.8, 0.7, 0.6, 0.1, 0.5],  # found sixth
        ]
    )
    found = recall_at(relations, TRUTH, GALLERY_TRUTH, (1, 2, 6))
    expected = {"recall_at_1": 1 / 3, "recall_at_2": 2 / 3, "recall_at_6": 1.0}
    assert found == pytest.approx(expected)


def test_no_sample_finds_itself() -> None:
    embeddings = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    assert recall_among(embeddings, torch.tensor([0, 1, 1]))["recall_at_1"] == pytest.approx(1 / 3)
    assert recall_among(embeddings[:1], torch.tensor([0])) == {
        "recall_at_1": None,
        "recall_at_5": None,
    }


def test_among_few_samples_no_recall_counts_the_query_itself() -> None:
    found = recall_among(torch.eye(4), torch.arange(4))
    assert found["recall_at_1"] == 0.0
    assert found["recall_at_5"] is None, "there are no five others"


def test_cosines_know_no_length() -> None:
    one, other = torch.tensor([[2.0, 0.0]]), torch.tensor([[3.0, 3.0], [0.0, 7.0]])
    assert cross_relations(one, other).tolist()[0] == pytest.approx([2**-0.5, 0.0])


def test_relations_are_compared_off_the_diagonal() -> None:
    one = torch.tensor([[1.0, 0.2, 0.4], [0.2, 1.0, 0.6], [0.4, 0.6, 1.0]])
    other = 0.5 * one + 0.1
    assert relation_correlation(one, other) == pytest.approx(1.0)
    errors = [0.1 - 0.5 * value for value in (0.2, 0.4, 0.6)]
    assert relation_error(one, other) == pytest.approx((sum(e * e for e in errors) / 3) ** 0.5)
    assert relation_error(one[:1, :1], one[:1, :1]) is None
    assert relation_correlation(torch.eye(3), one) is None
