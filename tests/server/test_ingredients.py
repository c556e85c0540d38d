"""What a run is made of: every setting of the plan comes from the experiment's own."""

from dataclasses import fields

from fedkd.core.run_plan import Plan
from fedkd.experiment import parse_experiment
from fedkd.protocol import Card, Signal
from fedkd.server.coordinator import ingredients

CARD = Card("one", 4, (1, 8, 8), frozenset({Signal.LOGITS}), False, class_counts=(5, 5, 5, 5))
STUDENT = {
    "steps": 300,
    "batch": 24,
    "learning_rate": 1e-3,
    "weight_decay": 0.25,
    "optimizer": "muon",
    "loss": "l1_centred",
    "shift": 1,
    "mirrors": True,
}
QUESTIONS = {
    "budget": 640,
    "batch": 16,
    "asking": 0.75,
    "rule": "mean_logits",
    "capacity": 320,
    "held_back": 0.25,
    "prior": "as_trained",
    "stop": 3,
}


def test_no_setting_of_the_plan_is_left_out() -> None:
    """Each differs from the plan's default, so a line that is missing shows."""
    experiment = parse_experiment({"name": "small", "student": STUDENT, "questions": QUESTIONS})
    plan, default = ingredients(experiment, [CARD]).plan, Plan(1)
    assert {"student_batch": plan.student_batch, "optimizer": plan.optimizer} == {
        "student_batch": 24,
        "optimizer": "muon",
    }
    names = {field.name for field in fields(Plan)}
    left = {name for name in names if getattr(plan, name) == getattr(default, name)}
    assert left == {"batch_statistics"}  # it excludes a capacity
    by_batch = parse_experiment({"name": "small", "questions": {"batch_statistics": True}})
    assert ingredients(by_batch, [CARD]).plan.batch_statistics
