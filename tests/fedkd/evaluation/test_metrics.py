"""Measures of a student, held against scipy's and numpy's."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.special import softmax

from fedkd.evaluation import (
    class_entropy,
    fidelity,
    fidelity_double_root,
    js_divergence,
    training_stability,
)


def logits(seed: int, spread: float = 3.0) -> torch.Tensor:
    return torch.randn(50, 7, generator=torch.Generator().manual_seed(seed)) * spread


def distances(
    student: torch.Tensor, teacher: torch.Tensor
) -> "np.ndarray[int, np.dtype[np.float64]]":
    """Of Jensen and Shannon, the roots of the divergence."""
    both = softmax(student.double().numpy(), 1), softmax(teacher.double().numpy(), 1)
    return np.array([jensenshannon(p, q) for p, q in zip(*both, strict=True)])


@pytest.mark.parametrize("spread", [0.01, 1.0, 30.0])
def test_fidelity_is_one_minus_the_distance_that_scipy_finds(spread: float) -> None:
    student, teacher = logits(0, spread), logits(1, spread)
    expected = distances(student, teacher)
    np.testing.assert_allclose(js_divergence(student, teacher), expected**2, rtol=1e-6, atol=1e-14)
    assert fidelity(student, teacher) == pytest.approx(float((1 - expected).mean()), abs=1e-7)
    # As the released code of the paper writes it: the root of scipy's distance, a root already.
    published = float((1 - np.sqrt(expected)).mean())
    assert fidelity_double_root(student, teacher) == pytest.approx(published, abs=1e-6)


def test_fidelity_is_one_where_alike_and_least_where_nothing_is_shared() -> None:
    same = logits(2)
    assert fidelity(same, same + 5.0) == pytest.approx(1.0, abs=1e-7)
    never = -math.inf
    student = torch.tensor([[0.0, never, never]])
    teacher = torch.tensor([[never, 1.0, 1.0]])
    assert float(js_divergence(student, teacher)[0]) == pytest.approx(math.log(2))
    assert fidelity(student, teacher) == pytest.approx(1 - math.sqrt(math.log(2)))
    assert fidelity(student, teacher) == fidelity(teacher, student)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.sampled_from([1.0, 0.5, 0.25]))
def test_a_course_is_the_mean_and_population_variance_of_the_last_scores(
    scores: list[float], last: float
) -> None:
    kept = np.array(scores[len(scores) - math.ceil(last * len(scores)) :])
    found = training_stability(scores, last)
    assert found is not None
    assert found.scores == len(kept) >= 1
    assert found.mean == pytest.approx(kept.mean())
    assert found.variance == pytest.approx(kept.var(), abs=1e-12)


def test_nobody_scored_is_no_course() -> None:
    assert training_stability([]) is None
    assert training_stability([], last=0.5) is None


def test_a_share_of_the_scores_is_not_rounded_by_a_last_digit() -> None:
    """1 - 0.9 is less than a tenth in floating point."""
    found = training_stability([1.0] + [0.0] * 9, last=0.9)
    assert found is not None
    assert (found.scores, found.mean) == (9, 0.0)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([[5, 0, 0, 0]], 0.0),
        ([[5]], 0.0),
        ([[0, 0, 0]], 0.0),
        ([[3, 3, 3, 3]], 1.0),
        ([[4, 4, 0, 0]], 0.5),
        ([[4, 0, 0, 0], [0, 4, 0, 0]], 0.5),
        ([[1, 0], [2, 0], [0, 1]], -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))),
    ],
)
def test_class_entropy_by_hand(counts: list[list[int]], expected: float) -> None:
    assert class_entropy([torch.tensor(c) for c in counts]) == pytest.approx(expected, abs=1e-6)


@given(st.lists(st.integers(0, 50), min_size=2, max_size=12).filter(any), st.randoms())
def test_class_entropy_lies_between_0_and_1_whatever_the_names_of_classes(counts, random) -> None:
    value = class_entropy([torch.tensor(counts)])
    assert -1e-6 <= value <= 1 + 1e-6
    random.shuffle(counts)
    assert class_entropy([torch.tensor(counts)]) == pytest.approx(value, abs=1e-5)
