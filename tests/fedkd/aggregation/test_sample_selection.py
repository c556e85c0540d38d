"""What is selected: the surer of two groups, as scikit-learn's mixture finds them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.mixture import GaussianMixture
from torch import Tensor

from fedkd.aggregation.sample_selection import (
    ITERATIONS,
    REGULARISER,
    TOLERANCE,
    confident,
    lower_of_two,
)
from fedkd.core.bank import Bank


def two_groups(seed: int) -> tuple[Tensor, Tensor]:
    """Logits of images that a teacher knows and of others, and which are which."""
    rng = torch.Generator().manual_seed(seed)
    known = torch.rand(200, generator=rng) < 0.4
    logits = torch.randn(200, 10, generator=rng)
    logits[known, 0] += 6 + torch.rand(int(known.sum()), generator=rng)
    return logits, known


@pytest.mark.parametrize("seed", range(6))
def test_the_posterior_is_that_of_scikit_learn(seed: int) -> None:
    logits, _ = two_groups(seed)
    loss = -logits.double().log_softmax(1).max(1).values
    loss = (loss - loss.min()) / (loss.max() - loss.min())
    column = loss[:, None].numpy()

    mixture = GaussianMixture(
        2, max_iter=ITERATIONS, tol=TOLERANCE, reg_covar=REGULARISER, random_state=0
    ).fit(column)
    assert mixture.converged_
    theirs = mixture.predict_proba(column)[:, mixture.means_[:, 0].argmin()]
    ours = lower_of_two(loss)
    assert torch.allclose(
        ours, torch.from_numpy(theirs), atol=1e-3
    )  # it begins with k-means, which may miss the best cut
    assert torch.equal(confident()(logits), torch.from_numpy(theirs > 0.5))


def test_what_a_teacher_knows_is_kept_and_the_rest_is_not() -> None:
    logits, known = two_groups(7)
    kept = confident()(logits)
    assert float((kept == known).float().mean()) > 0.9
    assert int(confident(0.999)(logits).sum()) < int(kept.sum())


@given(st.lists(st.lists(st.floats(-50, 50), min_size=3, max_size=3), min_size=1, max_size=9))
def test_something_is_always_kept(rows: list[list[float]]) -> None:
    kept = confident()(torch.tensor(rows))
    assert kept.dtype == torch.bool
    assert kept.shape == (len(rows),)
    assert bool(kept.any())


def test_a_batch_without_any_difference_is_kept_whole() -> None:
    assert bool(confident()(torch.zeros(5, 3)).all())


def test_what_is_thrown_out_is_known_again_and_never_drawn() -> None:
    bank, images = Bank(), torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1)
    kept = torch.tensor([True, False, True, False])
    bank.add(images, torch.eye(4), kept)
    assert not bool(bank.fresh(images).any())
    assert torch.equal(bank.images, images[kept])
    assert torch.equal(bank.targets, torch.eye(4)[kept])
