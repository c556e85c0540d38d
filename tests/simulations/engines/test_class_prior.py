"""The class prior of the fused answer, through a whole run."""

from pathlib import Path

import pytest

from fedkd.experiment import load_experiment
from fedkd.server.report.records.run_folder import load_run
from fedkd.simulations.run import run

SMALL = (
    "institutions.count=2",
    'institutions.models=["sklearn:LogisticRegression"]',
    "student.steps=40",
    "questions.budget=100",
)


def test_a_run_records_the_prior_and_when_it_was_nearly_as_good(tmp_path: Path) -> None:
    """Shares that are given move the ensemble's decisions towards the likelier class."""
    found = {}
    for prior in ('"auto"', "[0.999, 0.001]"):
        settings = load_experiment("breast-cancer", [*SMALL, f"questions.prior={prior}"])
        run(settings, "local", tmp_path / prior[1:4])
        found[prior] = load_run(tmp_path / prior[1:4])
    even, given = found.values()
    assert even.result.ensemble.prior == (0.5, 0.5)
    assert given.result.ensemble.prior == (0.999, 0.001)
    assert even.result.ensemble.auroc == pytest.approx(given.result.ensemble.auroc, abs=1e-6)
    assert even.result.ensemble.accuracy > given.result.ensemble.accuracy
    student = even.result.student
    assert student.accuracy is not None
    first = next(
        event
        for event in even.events
        if event.kind == "scored" and event.accuracy >= 0.95 * student.accuracy
    )
    assert (student.questions_to_95, student.seconds_to_95) == (first.asked, first.seconds)
    assert 0 < student.seconds_to_95 <= even.result.seconds
