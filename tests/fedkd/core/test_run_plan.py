"""Plans of a run: what makes no sense is refused, and the learning rate warms up and falls."""

import math

import pytest
from torch import nn

from fedkd.core.run_plan import Plan
from fedkd.errors import NeedsError, SettingsError
from fedkd.loop import distil
from fedkd.methods import cudfkd
from fedkd.procedural import UniformNoise
from fedkd.protocol import Card, Signal


@pytest.mark.parametrize(
    "values",
    [
        {"budget": 0},
        {"batch": 0},
        {"student_batch": 0},
        {"steps": -1},
        {"asking": 1.01},
        {"asking": math.nan},
        {"capacity": 63},
        {"learning_rate": 0.0},
        {"weight_decay": -1.0},
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(SettingsError):
        Plan(**{"budget": 10, **values})  # type: ignore[arg-type]


def test_the_learning_rate_warms_up_for_2_percent_of_the_steps_and_then_falls_to_nought() -> None:
    plan = Plan(10, steps=1000, learning_rate=0.5)
    assert [plan.rate(step) for step in (0, 9, 19, 20)] == pytest.approx([0.025, 0.25, 0.5, 0.5])
    assert plan.rate(510) == pytest.approx(0.25)
    falling = [plan.rate(step) for step in range(20, 1000)]
    assert falling == sorted(falling, reverse=True)
    assert 0 < falling[-1] < 1e-5


def test_an_institution_that_would_refuse_every_question_is_told_before_the_first() -> None:
    cards = [
        Card(name, 3, (1, 4, 4), frozenset({Signal.LOGITS}), largest_batch=most)
        for name, most in (("a", 64), ("b", 16))
    ]
    Plan(640, 16).check_cards(cards)
    with pytest.raises(NeedsError, match="b takes 16 samples in one query, and a question has 17"):
        Plan(640, 17).check_cards(cards)
    with pytest.raises(SettingsError, match=r"lower questions\.batch"):
        next(distil(nn.Identity(), cudfkd("none"), cards, Plan(640, 64), {"noise": UniformNoise()}))
