"""Self-paced weights of samples against the objective that they minimise."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedkd.errors import SettingsError
from fedkd.student.self_paced_curriculum import UNIFORM, Curriculum

losses = st.floats(0.0, 30.0)
lambdas = st.floats(0.2, 15.0)


def weight(kind: str, loss: float, lambda_: float) -> float:
    """The module's weight at a fixed lambda."""
    curriculum = Curriculum(kind, start=lambda_, stop=lambda_)  # type: ignore[arg-type]
    return float(curriculum.weights(torch.tensor([loss], dtype=torch.float64), 0.5)[0])


def regulariser(kind: str, v: float, lambda_: float) -> float:
    """g(v; lambda) of the self-paced objective v l + g, as the papers write it."""
    if kind == "hard":
        return -lambda_ * v
    if kind == "soft":
        return lambda_ * (v * v / 2 - v)
    mu = 1 + math.exp(-lambda_) - v
    entropy = (mu * math.log(mu) if mu > 0 else 0.0) + (v * math.log(v) if v > 0 else 0.0)
    return entropy - lambda_ * v


@pytest.mark.parametrize("kind", ["log", "soft", "hard"])
@given(loss=losses, lambda_=lambdas)
def test_a_weight_minimises_the_self_paced_objective(
    kind: str, loss: float, lambda_: float
) -> None:
    best = weight(kind, loss, lambda_)
    at_best = best * loss + regulariser(kind, best, lambda_)
    for v in torch.linspace(0.0, 1.0, 101, dtype=torch.float64).tolist():
        assert at_best <= v * loss + regulariser(kind, v, lambda_) + 1e-5


@pytest.mark.parametrize(
    ("lambda_", "loss", "expected"), [(1.0, 0.5, 0.851), (1.0, 2.0, 0.368), (2.0, 5.0, 0.054)]
)
def test_log_weights_at_known_points(lambda_: float, loss: float, expected: float) -> None:
    assert weight("log", loss, lambda_) == pytest.approx(expected, abs=1e-3)


@given(lambda_=lambdas)
def test_log_weight_is_one_without_loss_and_finite_for_a_huge_one(lambda_: float) -> None:
    assert weight("log", 0.0, lambda_) == pytest.approx(1.0, abs=1e-5)
    assert 0.0 <= weight("log", 1e4, lambda_) < 1e-6


@pytest.mark.parametrize("kind", ["log", "soft", "hard"])
def test_easy_samples_weigh_at_least_as_much_as_hard_ones(kind: str) -> None:
    each = Curriculum(kind, 1.0, 4.0).weights(torch.linspace(0, 10, 50), 0.3)  # type: ignore[arg-type]
    assert bool((each[1:] <= each[:-1]).all())
    assert each[0] > each[-1]


def test_lambda_rises_and_admits_hard_samples() -> None:
    curriculum = Curriculum("log", 2.0, 12.0)
    hard = torch.tensor([6.0])
    assert curriculum.lambda_at(0.0) == 2.0
    assert curriculum.lambda_at(1.0) == 12.0
    assert curriculum.weights(hard, 0.0) < 0.05
    assert curriculum.weights(hard, 1.0) > 0.95


def test_the_published_form_gives_one_weight_to_a_batch() -> None:
    loss = torch.tensor([0.1, 5.0, 1.0])
    weights = Curriculum("log", 2.0, 2.0, whole_batch=True).weights(loss, 0.0)
    alone = Curriculum("log", 2.0, 2.0).weights(loss.mean()[None], 0.0)
    assert torch.allclose(weights, alone.expand(3))


def test_no_curriculum_weighs_all_alike_and_weights_carry_no_gradient() -> None:
    loss = torch.tensor([0.1, 5.0], requires_grad=True)
    assert UNIFORM.weights(loss, 0.0).tolist() == [1.0, 1.0]
    assert not Curriculum().weights(loss, 0.0).requires_grad


@pytest.mark.parametrize(("start", "stop"), [(0.0, 1.0), (3.0, 2.0)])
def test_a_lambda_that_makes_no_sense_is_refused(start: float, stop: float) -> None:
    with pytest.raises(SettingsError, match="0 < start <= stop"):
        Curriculum("log", start, stop)


def test_an_unknown_kind_is_refused_by_name() -> None:
    with pytest.raises(SettingsError, match="'loud'; choose one of log, soft, hard, none"):
        Curriculum("loud")  # type: ignore[arg-type]
