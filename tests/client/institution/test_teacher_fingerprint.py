"""Another teacher is told from the one before, or its answers would go out as free repetitions."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from sklearn.tree import DecisionTreeClassifier

from fedkd.client.institution import Institution, brought_institution
from fedkd.client.ledger.ledger import Ledger
from fedkd.privacy import Policy
from fedkd.protocol import Ask, Reply

SHAPE = (1, 4, 4)
QUESTION = Ask(torch.rand(64, *SHAPE, generator=torch.Generator().manual_seed(1)))


def institution(model: Any, seed: int, ledger: Ledger) -> Institution:
    rng = np.random.default_rng(seed)
    rows = rng.random((400, 16)).astype(np.float32)
    truth = (rows.sum(1) + rng.normal(0, 0.7, 400) > 8).astype(int)
    policy = Policy(samples=64)
    return brought_institution(
        "north", model.fit(rows, truth), policy, ledger, shape=SHAPE, classes=2
    )


@pytest.mark.parametrize(
    "model", [lambda: DecisionTreeClassifier(random_state=0), lambda: KNeighborsClassifier(1)]
)
def test_a_model_that_was_trained_again_answers_nothing_for_free(
    model: Callable[[], Any],
) -> None:
    """Models of few different outputs: of one sample alone many of them agree."""
    for seed in range(10):
        ledger = Ledger(None)
        assert isinstance(institution(model(), seed, ledger).answer(QUESTION), Reply)
        again = institution(model(), seed, ledger)
        assert isinstance(again.answer(QUESTION), Reply), "the same model: a repetition"
        assert ledger.totals.samples == 64
        other = institution(model(), 100 + seed, ledger)
        assert not isinstance(other.answer(QUESTION), Reply), f"seed {seed}"
