"""Warnings about an ensemble that is worse than its mean member."""

import pytest

from fedkd.protocol import Number
from fedkd.server.run.ensemble_warnings import ensemble_warnings
from fedkd.tasks import Classification, Regression

CLASSES, NUMBERS = Classification(("a", "b")), Regression((Number("cost"),))
MEMBERS = {"north": {"accuracy": 0.8, "r2": 0.3}, "south": {"accuracy": 0.9, "r2": 0.5}}


def test_worse_than_the_mean_member() -> None:
    (warning,) = ensemble_warnings(CLASSES, {"accuracy": 0.8}, MEMBERS)
    assert "accuracy, 80.0%" in warning
    assert "mean member, 85.0%" in warning
    assert "questions.prior" in warning
    (warning,) = ensemble_warnings(NUMBERS, {"r2": 0.1}, MEMBERS)
    assert "R², 0.100" in warning


@pytest.mark.parametrize(
    "ensemble", [{"accuracy": 0.85}, {"accuracy": 0.99}, {"accuracy": None}, {}]
)
def test_none_where_it_is_no_worse_or_unknown(ensemble: dict[str, float | None]) -> None:
    assert ensemble_warnings(CLASSES, ensemble, MEMBERS) == []


def test_none_where_a_member_is_unknown_or_alone() -> None:
    worse = {"accuracy": 0.1}
    assert ensemble_warnings(CLASSES, worse, {**MEMBERS, "east": {}}) == []
    assert ensemble_warnings(CLASSES, worse, {"north": MEMBERS["north"]}) == []
    assert ensemble_warnings(CLASSES, worse, {}) == []
