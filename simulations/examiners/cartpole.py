"""CartPole: a pole on a cart is balanced by pushing the cart left or right.

A. G. Barto, R. S. Sutton, C. W. Anderson: Neuronlike adaptive elements that can solve difficult
learning control problems. IEEE Transactions on Systems, Man, and Cybernetics 13(5), 1983. With
force f, angle a and angular velocity w of the pole, total mass M = m_cart + m_pole:

    t   = (f + m_pole l w^2 sin a) / M
    a'' = (g sin a - t cos a) / (l (4/3 - m_pole cos^2 a / M))
    x'' = t - m_pole l a'' cos a / M

integrated by Euler's method with 0.02 s. Each step until the cart is 2.4 m off or the pole 12
degrees tilted counts 1. Constants, first states and limits are those of Gymnasium's CartPole-v1.

`recorded_episodes` is the data of institutions: what a controller saw and did. It was found by
cross-entropy search here, in the simulation; no coordinator has the equations.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from fedkd.data.dataset import Dataset
from fedkd.protocol import Column, encode_rows

GRAVITY, CART, POLE, HALF_LENGTH, FORCE, STEP = 9.8, 1.0, 0.1, 0.5, 10.0, 0.02
"""m/s^2, kg, kg, m, N, s."""
MAX_X, MAX_ANGLE = 2.4, 12 * 2 * np.pi / 360
"""m and rad, beyond which an episode ends."""
START = 0.05
"""Largest first value of each state."""
COLUMNS = (
    Column("position", -2.4, 2.4),
    Column("velocity", -3.0, 3.0),
    Column("angle", -0.21, 0.21),
    Column("angular velocity", -3.0, 3.0),
)
"""The box in which observations lie: m, m/s, rad, rad/s."""
ACTIONS = ("left", "right")
STEPS = 500
"""Of an episode, at most."""
SLIPS = 0.3
"""Share of the recorded steps at which a random push took the place of the controller's, so that
records are not of balanced poles alone. What is recorded is the controller's decision."""

States = NDArray[np.float64]
Push = Callable[[States], NDArray[np.int64]]


def motion(states: States, right: NDArray[np.int64]) -> States:
    """States (E, 4) after one step of pushes (E,), 1 to the right and 0 to the left."""
    x, v, a, w = states.T
    force, mass = np.where(right == 1, FORCE, -FORCE), CART + POLE
    sine, cosine = np.sin(a), np.cos(a)
    thrust = (force + POLE * HALF_LENGTH * w**2 * sine) / mass
    turn = GRAVITY * sine - thrust * cosine
    turn = turn / (HALF_LENGTH * (4 / 3 - POLE * cosine**2 / mass))
    push = thrust - POLE * HALF_LENGTH * turn * cosine / mass
    return np.stack([x + STEP * v, v + STEP * push, a + STEP * w, w + STEP * turn], 1)


def standing(states: States) -> NDArray[np.bool_]:
    """Which episodes have not ended, (E,)."""
    position, angle = np.abs(states[:, 0]), np.abs(states[:, 2])
    within: NDArray[np.bool_] = (position <= MAX_X) & (angle <= MAX_ANGLE)
    return within


def returns(act: Push, states: States) -> States:
    """Numbers of steps, (E,), of episodes from these first states (E, 4)."""
    counted, alive = np.zeros(len(states)), np.ones(len(states), bool)
    for _ in range(STEPS):
        states = np.where(alive[:, None], motion(states, act(states)), states)
        counted += alive  # the step that ends an episode counts
        alive &= standing(states)
        if not alive.any():
            break
    return counted


@dataclass(frozen=True)
class CartPole:
    """The examiner: episodes from the same first states for every policy."""

    episodes: int = 50
    seed: int = 1983
    actions = ACTIONS

    def mean_return(self, act: Push) -> float:
        """Mean number of steps, of at most 500."""
        states = first_states(np.random.default_rng(self.seed), self.episodes)
        return float(returns(act, states).mean())


def first_states(rng: np.random.Generator, episodes: int) -> States:
    """States (E, 4) at the start."""
    return rng.uniform(-START, START, (episodes, 4))


def searched_controller(seed: int, candidates: int = 32, rounds: int = 10) -> States:
    """Weights (4,) of a linear controller, by cross-entropy search: right where w . s > 0.

    Each round draws candidates from a normal distribution and fits it to the best quarter.
    """
    rng, episodes = np.random.default_rng(seed), 8
    mean, deviation = np.zeros(4), np.ones(4)
    for _ in range(rounds):
        drawn = mean + deviation * rng.standard_normal((candidates, 4))
        each = np.repeat(drawn, episodes, 0)
        begun = first_states(rng, len(each))
        counted = returns(lambda s, w=each: ((s * w).sum(1) > 0).astype(np.int64), begun)  # type: ignore[misc]
        best = drawn[np.argsort(counted.reshape(candidates, episodes).mean(1))[-candidates // 4 :]]
        mean, deviation = best.mean(0), best.std(0) + 0.05
    return mean


@cache
def recorded_episodes(root: str | None = None) -> Dataset:
    """What controllers saw and did: 3,000 observations for training and 750 for tests.

    Args:
        root: unused.
    """
    del root
    rng = np.random.default_rng(0)
    controller = searched_controller(0)
    seen, states = [], first_states(rng, 25)
    for _ in range(150):
        seen.append(states)
        chosen = (states @ controller > 0).astype(int)
        slipped = rng.random(25) < SLIPS
        states = motion(states, np.where(slipped, rng.integers(2, size=25), chosen))
        states = np.where(standing(states)[:, None], states, first_states(rng, 25))
    rows = np.concatenate(seen)[rng.permutation(25 * 150)]
    samples = encode_rows(torch.from_numpy(rows), COLUMNS)
    labels = torch.from_numpy((rows @ controller > 0).astype(np.int64))
    train, test = slice(0, 3000), slice(3000, None)
    return Dataset(
        "cartpole",
        len(ACTIONS),
        *(samples[train], labels[train], samples[test], labels[test]),
        COLUMNS,
        class_names=ACTIONS,
    )
