"""The student is evaluated on samples that it never learned from, by every method alike."""

import math

import pytest
import torch

from fedkd.core.held_back import is_held_back
from fedkd.core.run_plan import EVALUATIONS
from fedkd.core.seen_samples import sample_keys
from fedkd.evaluation import agreement, fidelity, predict_logits, soft_calibration_error
from fedkd.loop import Plan
from fedkd.methods import METHODS, Method, cudfkd
from fedkd.student import Trainer
from fedkd.tasks import Classification, Regression
from tests.fedkd.tasks.test_tasks import COST, STAY
from tests.support.gated_institutions import GatedInstitutions, facts, make_known, mixed, run

SHARE = 0.25


@pytest.mark.parametrize("name", sorted(METHODS))
def test_no_method_trains_its_student_on_what_is_held_back(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    method: Method = make_known(
        *(name,),
        **{"latent": 8, "warm_up": 0.3, "generated": 0.7, "bn_weight": 0.0},
        **{"steps_per_batch": 2, "capture_interval": 2},
    )
    learned: list[torch.Tensor] = []
    step = Trainer.learn

    def learn(self: Trainer, images: torch.Tensor, *more: object) -> object:
        learned.append(images)
        return step(self, images, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "learn", learn)
    seed, plan = 5, Plan(120, 16, steps=30, student_batch=8, held_back=SHARE)
    distilled, events = run(method, plan, GatedInstitutions.for_method(method), seed)
    assert learned
    keys = sample_keys(torch.cat(learned).numpy())
    assert not is_held_back(keys, SHARE, seed).any()
    assert distilled.held_back["count"] == len(distilled.bank.held_back(1000)[1]) > 5
    last = [event for event in events if event.kind == "held_back"][-1]
    assert last.facts["step"] == 30
    assert {n: last.facts[n] for n in distilled.held_back} == distilled.held_back


def test_every_source_loses_its_share() -> None:
    plan = Plan(1200, 20, steps=4, student_batch=8, held_back=SHARE)
    distilled, events = run(mixed("none"), plan, GatedInstitutions())
    origins = [
        o for e in events if e.kind == "asked" for o in [e.facts["origin"]] * e.facts["count"]
    ]  # type: ignore[operator]
    drawn = set(distilled.bank.learned.tolist())
    shares = {}
    for origin in set(origins):
        rows = [row for row, of in enumerate(origins) if of == origin]
        if len(rows) >= 100:
            shares[origin] = sum(row not in drawn for row in rows) / len(rows)
    assert len(shares) > 1
    assert all(abs(share - SHARE) < 0.15 for share in shares.values()), shares


def test_scores_are_of_the_final_student_against_the_banked_answers() -> None:
    distilled, _ = run(cudfkd(), Plan(400, 20, steps=20, student_batch=8, held_back=SHARE))
    images, fused = distilled.bank.held_back(1000)
    logits = predict_logits(distilled.student, images)
    scores = distilled.held_back
    assert scores["agreement"] == agreement(logits, fused)
    assert scores["fidelity"] == pytest.approx(fidelity(logits, fused), rel=1e-6)
    assert scores["ece"] == pytest.approx(soft_calibration_error(logits, fused), rel=1e-5)
    p, q = fused.double().softmax(1), logits.double().softmax(1)
    assert scores["kl"] == pytest.approx(float((p * (p / q).log()).sum(1).mean()), rel=1e-5)


def test_calibration_is_held_against_the_probability_of_the_students_own_class() -> None:
    """By hand: .9 against the .2 that the teacher gives to that class, and .6 against its .7."""
    student = torch.tensor([[0.9, 0.1], [0.4, 0.6]]).log()
    teacher = torch.tensor([[0.2, 0.8], [0.3, 0.7]]).log()
    assert Classification(("a", "b")).held_back(student, teacher)["ece"] == pytest.approx(
        (abs(0.2 - 0.9) + abs(0.7 - 0.6)) / 2
    )


def test_evaluating_changes_nothing_and_nothing_is_known_without_a_share() -> None:
    plan = Plan(120, 16, steps=50, student_batch=8, held_back=0.0)
    distilled, events = run(mixed("pull_back"), plan)
    assert distilled.held_back == {}
    assert "held_back" not in {event.kind for event in events}
    assert len(distilled.bank.learned) == len(distilled.bank)


def test_a_run_of_one_sample_a_question_has_something_to_learn_from() -> None:
    for seed in range(8):
        distilled, _ = run(cudfkd(), Plan(3, 1, steps=3, held_back=0.5), seed=seed)
        assert len(distilled.bank.learned) >= 1


def test_evaluations_are_spread_over_the_run() -> None:
    _, events = run(cudfkd(), Plan(400, 20, steps=50, student_batch=8, held_back=SHARE))
    steps = facts(events, "held_back", "step")
    assert EVALUATIONS <= len(steps) + 1 <= 2 * EVALUATIONS + 1
    assert steps[-1] == 50


def test_scores_of_numbers_are_shares_of_the_range_and_units() -> None:
    fused = torch.tensor([[0.2], [0.5], [0.8]])
    student = torch.tensor([[0.1], [0.5], [0.9]])
    scores = Regression((STAY,)).held_back(student, fused)
    assert scores["rmse_of_range"] == pytest.approx(math.sqrt(0.02 / 3))
    assert scores["rmse"] == pytest.approx(60 * math.sqrt(0.02 / 3), rel=1e-5)
    assert scores["r2"] == pytest.approx(1 - 0.02 / 0.18, rel=1e-5)
    several = Regression((COST, STAY)).held_back(student.repeat(1, 2), fused.repeat(1, 2))
    assert several["rmse_of_range"] == scores["rmse_of_range"]
    assert "rmse" not in several


def test_equal_outputs_have_no_divergence_even_where_a_class_is_impossible() -> None:
    fused = torch.tensor([[3.0, -torch.inf, 0.0], [900.0, 0.0, -900.0]])
    student = fused.clamp(min=-1e4)
    scores = Classification(("a", "b", "c")).held_back(student, fused)
    assert scores["kl"] == pytest.approx(0.0, abs=1e-9)
    assert (scores["agreement"], scores["ece"]) == (1.0, 0.0)
