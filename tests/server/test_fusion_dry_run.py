"""Dry run of the aggregation: who cannot be fused with whom."""

from fedkd.loop import Distillation, Plan
from fedkd.methods import cmi
from fedkd.models import InProcess, build_network
from fedkd.procedural import build_priors
from fedkd.server.fusion_dry_run import fusion_failure

SHAPE, K = (1, 8, 8), 4


def run_with(*names: str) -> tuple[Distillation, InProcess]:
    teachers = InProcess({name: build_network("cnn", K, SHAPE, 0) for name in names}, SHAPE, K)
    plan, student = Plan(16, 8, 2, student_batch=8), build_network("mlp", K, SHAPE, 1)
    return Distillation(student, cmi(), teachers.cards, plan, build_priors("noise")), teachers


def test_nobody_joins_a_run_that_reads_the_features_of_one() -> None:
    run, teachers = run_with("north")
    (_, further) = run_with("north", "south")[1].cards
    assert run.method.reads_features
    assert fusion_failure(run, teachers.cards) is None
    why = fusion_failure(run, [*teachers.cards, further])
    assert why is not None
    assert "features of one institution" in why


def test_whoever_was_there_at_the_start_is_fused() -> None:
    run, teachers = run_with("north", "south")
    assert not run.method.reads_features
    assert fusion_failure(run, teachers.cards) is None
