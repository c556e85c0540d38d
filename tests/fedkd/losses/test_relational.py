"""Losses of relations and of distance, each against its formula written out."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedkd.losses import embedding_distance, relation_kl, relation_squared

TAU = 0.1
B = 5


def rows(seed: int, width: int = 4) -> Tensor:
    drawn = torch.randn(B, width, generator=torch.Generator().manual_seed(seed))
    return (drawn / drawn.norm(dim=1, keepdim=True)).double()


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def test_squared_is_the_mean_over_the_others() -> None:
    student, target = 3 * rows(0), rows(1, 6)
    found = relation_squared(student, target)
    for i in range(B):
        others = [j for j in range(B) if j != i]
        squares = [
            (cosine(student[i], student[j]) - float(target[i] @ target[j])) ** 2 for j in others
        ]
        assert float(found[i]) == pytest.approx(sum(squares) / len(others))


def test_kl_is_that_of_softmaxes_without_the_diagonal() -> None:
    student, target = 3 * rows(0), rows(1, 6)
    found = relation_kl(TAU)(student, target)
    for i in range(B):
        others = [j for j in range(B) if j != i]
        own = [math.exp(cosine(student[i], student[j]) / TAU) for j in others]
        taught = [math.exp(float(target[i] @ target[j]) / TAU) for j in others]
        p, q = [v / sum(taught) for v in taught], [v / sum(own) for v in own]
        expected = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        assert float(found[i]) == pytest.approx(expected)


@given(st.integers(0, 2**32))
def test_a_rotated_embedding_has_no_relational_loss(seed: int) -> None:
    own = rows(seed)
    turn = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64)).Q
    for loss in (relation_squared, relation_kl(TAU)):
        assert float(loss(5 * own @ turn, own).abs().max()) < 1e-9
        slope = torch.autograd.grad(
            loss(probe := rows(seed + 1).requires_grad_(), own).sum(), probe
        )
        assert bool(slope[0].isfinite().all())


def test_distance_reads_the_first_columns() -> None:
    student, target = rows(0), torch.cat([rows(1), torch.zeros(B, 3)], 1)
    expected = [math.dist(student[i].tolist(), target[i, :4].tolist()) for i in range(B)]
    assert embedding_distance(student, target).tolist() == pytest.approx(expected)
    same = student.clone().requires_grad_()
    embedding_distance(same, student).sum().backward()
    assert same.grad is not None
    assert bool(same.grad.isfinite().all())


def test_one_sample_alone_teaches_nothing() -> None:
    for loss in (relation_squared, relation_kl(TAU)):
        assert loss(rows(0)[:1], rows(1)[:1]).tolist() == [0.0]
