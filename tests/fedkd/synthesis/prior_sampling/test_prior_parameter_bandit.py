"""The bandit over priors' parameters: arms, rewards, choice, and its state."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fedkd.core.source_types import Turn
from fedkd.procedural import build_priors
from fedkd.synthesis.prior_sampling.prior_parameter_bandit import (
    ArmChoice,
    PriorParameterBandit,
    halves,
    reward,
)
from tests.support.contexts import answered_with, context_of

SHAPE, K = (1, 6, 6), 3
PRIORS = build_priors("pink", "strokes", "levels", warp=0.5, mix=0.5)


class Says(nn.Module):
    """A student that gives the same logits to every image."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(K))

    def forward(self, images: Tensor) -> Tensor:
        return self.logits * torch.ones(len(images), 1)


def bandit(**settings: float) -> tuple[ArmChoice, Says]:
    student = Says()
    context = context_of(student, SHAPE, K, priors=PRIORS)
    return PriorParameterBandit(**settings).build(context), student  # type: ignore[arg-type]


def test_reward_is_the_formula() -> None:
    """exp of -L_A: -log p_T(y) - log(1 - p_S(y))."""
    target, student = torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([[0.5, 1.0, 0.0]])
    teacher_sure = math.exp(2) / (math.exp(2) + 1 + math.exp(-1))
    student_gives = math.exp(0.5) / (math.exp(0.5) + math.e + 1)
    loss = -math.log(teacher_sure) - math.log(1 - student_gives)
    assert reward(target, student).item() == pytest.approx(math.exp(-loss), rel=1e-5)


@given(st.lists(st.tuples(*[st.floats(-20, 20)] * 6), min_size=1, max_size=5))
def test_reward_is_a_probability(rows: list[tuple[float, ...]]) -> None:
    both = torch.tensor(rows)
    paid = reward(both[:, :3], both[:, 3:])
    assert bool(((paid >= 0) & (paid <= 1)).all())


def test_arms_are_halves_of_the_first_range() -> None:
    arms = {arm: p for name, of in PRIORS.items() for arm, p in halves(name, of).items()}
    assert list(arms) == [
        *("pink, low exponents", "pink, high exponents"),
        *("strokes, low radii", "strokes, high radii", "levels"),
    ]
    whole = PRIORS["pink"].prior.prior.exponents  # type: ignore[attr-defined]
    low, high = (arms[f"pink, {half} exponents"].prior.prior for half in ("low", "high"))  # type: ignore[attr-defined]
    assert (low.exponents[0], high.exponents[1]) == whole
    assert low.exponents[1] == high.exponents[0] == sum(whole) / 2
    assert low.gains == high.gains
    assert arms["pink, low exponents"].share == PRIORS["pink"].share  # type: ignore[attr-defined]


def paid(source: ArmChoice, student: Says) -> None:
    """Pay each arm once: the first most, since there the student is wrong."""
    generator = torch.Generator().manual_seed(0)
    target = torch.eye(K)[[0, 0]] * 9
    for number in range(len(source.priors)):
        proposal = source.propose(Turn(2, generator, 0.0))
        assert proposal is not None
        with torch.no_grad():
            student.logits[:] = torch.tensor([0.0 if number == 0 else 9.0, 0.0, 0.0])
        assert source.learn(answered_with(proposal, target)) is None


@pytest.mark.parametrize("negated", [False, True])
def test_what_pays_is_drawn_more_often(negated: bool) -> None:
    """And less often where rewards are negated."""
    source, student = bandit(negated=negated)
    paid(source, student)
    first = next(iter(source.priors))
    generator = torch.Generator().manual_seed(1)
    origins = [source.draw(1, generator).origin for _ in range(200)]
    share = origins.count(first) / 200
    assert (share < 0.01) if negated else (share > 0.9)
    assert abs(source.value[first]) > 0.6


def test_a_student_is_only_read() -> None:
    source, student = bandit()
    before = student.logits.detach().clone()
    proposal = source.propose(Turn(4, torch.Generator().manual_seed(0), 0.0))
    assert proposal is not None
    source.learn(answered_with(proposal, torch.eye(K)[[0, 1, 2, 0]]))
    assert torch.equal(student.logits, before)
    assert student.logits.grad is None


def test_state_is_all_of_it() -> None:
    source, student = bandit(sharpness=0.5)
    paid(source, student)
    again, _ = bandit(sharpness=0.5)
    again.restore(source.state())
    assert again.value == source.value
    one, other = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    assert [source.draw(1, one).origin for _ in range(30)] == [
        again.draw(1, other).origin for _ in range(30)
    ]
