"""CartPole: our equations, its examiner, what institutions recorded, and a policy's score."""

import numpy as np
import pytest
import torch

from fedkd.errors import SettingsError
from fedkd.protocol import encode_rows
from fedkd.simulations.engines.examination import policy_of
from fedkd.simulations.examiners import build_examiner
from fedkd.simulations.examiners.cartpole import (
    ACTIONS,
    COLUMNS,
    CartPole,
    first_states,
    motion,
    recorded_episodes,
    returns,
    searched_controller,
)


def test_a_step_from_rest_is_the_published_one() -> None:
    """By hand: thrust 10 / 1.1, turn -thrust / (0.5 (4/3 - 0.1 / 1.1))."""
    (x, v, a, w) = motion(np.zeros((1, 4)), np.array([1]))[0]
    thrust = 10 / 1.1
    turn = -thrust / (0.5 * (4 / 3 - 0.1 / 1.1))
    assert (x, a) == (0.0, 0.0)
    assert w == pytest.approx(0.02 * turn)
    assert v == pytest.approx(0.02 * (thrust - 0.05 * turn / 1.1))


def test_motion_is_symmetric_and_a_pole_left_alone_falls() -> None:
    states = first_states(np.random.default_rng(0), 20)
    right = np.arange(20) % 2
    assert np.allclose(motion(-states, 1 - right), -motion(states, right))
    always = returns(lambda s: np.ones(len(s), np.int64), states)
    assert 8 <= always.mean() <= 12


def test_our_equations_are_those_of_gymnasium() -> None:
    gymnasium = pytest.importorskip("gymnasium")
    theirs = gymnasium.make("CartPole-v1").unwrapped
    theirs.reset(seed=0)
    state, rng = np.array([[0.01, -0.02, 0.03, 0.04]]), np.random.default_rng(0)
    theirs.state = tuple(state[0])
    for _ in range(20):
        push = int(rng.integers(2))
        state = motion(state, np.array([push]))
        theirs.step(push)
        assert np.allclose(state[0], theirs.state, atol=1e-9)


def test_the_controller_is_decided_by_its_seed_and_balances_the_pole() -> None:
    weights = searched_controller(0)
    assert np.array_equal(weights, searched_controller(0))
    assert CartPole().mean_return(lambda s: (s @ weights > 0).astype(np.int64)) > 490
    assert CartPole().mean_return(lambda s: (s @ weights < 0).astype(np.int64)) < 12
    rng = np.random.default_rng(0)
    assert CartPole().mean_return(lambda s: rng.integers(2, size=len(s))) < 40


def test_records_are_rows_of_the_box_and_the_controllers_decisions() -> None:
    data, weights = recorded_episodes(), searched_controller(0)
    assert data.columns == COLUMNS
    assert data.class_names == ACTIONS
    assert (len(data.train_images), len(data.test_images)) == (3000, 750)
    share = float(data.train_labels.float().mean())
    assert 0.4 < share < 0.6
    low = torch.tensor([c.low for c in COLUMNS])
    span = torch.tensor([c.high - c.low for c in COLUMNS])
    states = (low + data.test_images[:, 0, 0] * span).double().numpy()
    decided = (states @ weights > 0).astype(int)
    assert (decided == data.test_labels.numpy()).mean() > 0.99  # float32 apart


def test_a_policy_takes_the_likeliest_action_by_name() -> None:
    weights = torch.tensor(searched_controller(0))
    low = torch.tensor([c.low for c in COLUMNS])
    span = torch.tensor([c.high - c.low for c in COLUMNS])

    def logits(rows: torch.Tensor) -> torch.Tensor:
        """Of right, then left: not in the examiner's order."""
        score = (low + rows[:, 0, 0] * span).double() @ weights
        return torch.stack([score, -score], 1)

    act = policy_of(logits, ("right", "left"), COLUMNS, ACTIONS)
    assert CartPole(10).mean_return(act) > 490
    wrong = policy_of(logits, ("left", "right"), COLUMNS, ACTIONS)
    assert CartPole(10).mean_return(wrong) < 12
    states = np.array([[0.0, 0.0, 0.1, 0.0]])
    assert act(states).tolist() == [1]
    assert encode_rows(torch.from_numpy(states), COLUMNS).shape == (1, 1, 1, 4)


def test_examiners_are_found_by_name() -> None:
    assert build_examiner("cartpole").actions == ACTIONS
    made = build_examiner("fedkd.simulations.examiners.cartpole:CartPole")
    assert isinstance(made, CartPole)
    with pytest.raises(SettingsError, match="unknown examiner 'pong'; choose one of cartpole"):
        build_examiner("pong")
    with pytest.raises(SettingsError, match=r"without mean_return\(\)"):
        build_examiner("builtins:object")
