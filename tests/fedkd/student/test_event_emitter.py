"""Run events: what a question and a student step say, and what adds up over a run."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from fedkd.aggregation import build_fusion
from fedkd.core import AnsweredBatch, Plan, Progress, Proposal
from fedkd.losses import l1_centred
from fedkd.protocol import Card, LabelSpaces, Reply, Signal
from fedkd.student import Curriculum, RunEvents
from fedkd.tasks import Classification
from tests.support.contexts import Clock

K, SHAPE = 3, (1, 2, 2)
THREE = Classification(("ape", "bee", "cat"))
CARDS = (
    Card("east", K, SHAPE, frozenset({Signal.LOGITS}), class_names=("ape", "bee", "cat")),
    Card("west", 2, SHAPE, frozenset({Signal.LOGITS}), class_names=("cat", "bee")),
)


def answered(target: Tensor, **replies: Tensor) -> AnsweredBatch:
    images = torch.zeros(len(target), *SHAPE, dtype=torch.uint8)
    return AnsweredBatch(
        *(Proposal(images, "pink"), images),
        {name: Reply({Signal.LOGITS: logits}) for name, logits in replies.items()},
        *(target, None, LabelSpaces.of(CARDS), build_fusion("mean_probabilities", CARDS), 0.0),
    )


LOG = Curriculum("log", 2.0, 12.0)


def events_of(clock: Clock, curriculum: Curriculum = LOG) -> tuple[RunEvents, list[Progress]]:
    seen: list[Progress] = []
    return RunEvents(seen.append, clock, l1_centred, curriculum, THREE), seen


def test_an_event_says_where_the_run_stands() -> None:
    clock = Clock(Plan(100), asked=40, progress=0.25)
    events, seen = events_of(clock)
    events.record("generated", step=3)
    assert seen == [Progress("generated", {"asked": 40, "done": 0.25, "step": 3})]


def test_a_question_says_its_origin_and_the_entropy_of_all_classes_so_far() -> None:
    events, seen = events_of(Clock(Plan(100)))
    student = torch.zeros(4, K)
    for first, entropy in ((0, 0.0), (1, math.log(2) / math.log(3)), (2, 1.0)):
        logits = torch.eye(K)[[first] * 4]
        events.question(answered(logits, east=logits), student, {"class_entropy": {"pink": 0.5}})
        facts: dict[str, Any] = dict(seen[-1].facts)
        assert facts.pop("entropy") == pytest.approx(entropy)
        assert facts == {
            **{"asked": 0, "done": 0.0, "origin": "pink", "count": 4},
            "class_entropy": {"pink": 0.5},
        }


def test_a_step_says_how_far_the_student_is_from_each_institution_on_its_own_classes() -> None:
    clock = Clock(Plan(100, steps=10), progress=0.5)
    events, seen = events_of(clock)
    student = torch.tensor([[0.0, 1.0, 5.0], [2.0, 0.0, 1.0]])
    own = {"east": torch.zeros(2, K), "west": torch.tensor([[5.0, 1.0], [0.0, 1.0]])}
    events.question(answered(torch.zeros(2, K), **own), student, {})
    events.student_step(4, torch.tensor([1.0, 3.0]), torch.tensor([1.0, 0.5]))
    west = l1_centred(student[:, [2, 1]], own["west"]).mean()
    assert seen[-1].facts == {
        **{"asked": 0, "done": 0.5, "step": 4, "loss": 1.25, "difficulty": 2.0, "weight": 0.75},
        "curriculum_lambda": 7.0,
        "difficulty_by_institution": {
            "east": float(l1_centred(student, own["east"]).mean()),
            "west": float(west),
        },
    }


def test_a_step_without_a_curriculum_has_no_lambda() -> None:
    events, seen = events_of(Clock(Plan(100, steps=10), progress=0.5), Curriculum("none"))
    events.student_step(4, torch.tensor([1.0, 3.0]), torch.ones(2))
    assert "curriculum_lambda" not in seen[-1].facts
    assert (seen[-1].facts["weight"], seen[-1].facts["difficulty"]) == (1.0, 2.0)


@pytest.mark.parametrize(("steps", "told"), [(10, 10), (200, 200), (399, 399), (1000, 200)])
def test_no_run_says_much_more_than_two_hundred_steps(steps: int, told: int) -> None:
    events, seen = events_of(Clock(Plan(100, steps=steps)))
    for step in range(1, steps + 1):
        events.student_step(step, torch.zeros(2), torch.ones(2))
    assert len(seen) == told
    assert seen[-1].facts["step"] == steps


def test_what_adds_up_is_taken_up_again() -> None:
    events, _ = events_of(Clock(Plan(100)))
    events.question(answered(torch.eye(K), east=torch.zeros(3, K)), torch.ones(3, K), {})
    again, seen = events_of(Clock(Plan(100)))
    again.restore(events.state())
    last = answered(torch.eye(K)[:1], west=torch.zeros(1, 2))
    for each in (events, again):
        each.question(last, torch.ones(1, K), {})
    assert again.state().numbers == events.state().numbers
    assert again.state().numbers["losses"].keys() == {"east", "west"}
    entropy = -(0.5 * math.log(0.5) + 2 * 0.25 * math.log(0.25)) / math.log(3)
    assert seen[-1].facts["entropy"] == pytest.approx(entropy)
