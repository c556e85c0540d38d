"""Schedules: ramps, and how far a source that shares a run is expected to be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkd.core.schedules import ExpectedProgress, Schedule, constant, ramp

SHARES = st.floats(0.0, 5.0)
DONE = st.floats(0.0, 1.0)


def test_a_ramp_rises_linearly_between_its_ends() -> None:
    weight = ramp(0.0, 62.0, 0.25, 0.75)
    assert [weight(p) for p in (0.0, 0.25, 0.5, 0.75, 1.0)] == [0.0, 0.0, 31.0, 62.0, 62.0]
    step = ramp(1.0, 3.0, 0.5, 0.5)
    assert [step(p) for p in (0.0, 0.49, 0.5, 1.0)] == [1.0, 1.0, 3.0, 3.0]
    assert constant(3.0)(0.9) == 3.0


def test_a_source_that_has_every_question_follows_the_questions() -> None:
    progress = ExpectedProgress({"generator": constant(0.3), "prior": constant(0.0)})
    for done in (0.0, 0.25, 0.6, 1.0):
        assert progress.of("generator", done) == pytest.approx(done)
        assert progress.of("prior", done) == done  # it has no share: nothing follows it


def test_after_a_warm_up_a_source_begins_at_nought_and_ends_at_one() -> None:
    generator = ramp(0.0, 0.5, 0.3, 0.3)
    shares: dict[str, Schedule] = {"generator": generator, "prior": lambda p: 1.0 - generator(p)}
    progress = ExpectedProgress(shares)
    for done, expected in {0.0: 0.0, 0.3: 0.0, 0.65: 0.5, 1.0: 1.0}.items():
        assert progress.of("generator", done) == pytest.approx(expected, abs=2e-3)
    # The priors have all of 0.3, and half of 0.7.
    assert progress.of("prior", 0.3) == pytest.approx(0.3 / 0.65, abs=2e-3)


def test_a_share_that_changes_counts_by_how_much_it_was() -> None:
    progress = ExpectedProgress({"a": lambda p: p, "b": lambda p: 1.0 - p})
    assert progress.of("a", 0.5) == pytest.approx(0.25, abs=2e-3)
    assert progress.of("b", 0.5) == pytest.approx(0.75, abs=2e-3)


@given(SHARES, SHARES, st.floats(0.0, 0.95), DONE, DONE)
def test_progress_never_falls_and_goes_from_nought_to_one(
    first: float, second: float, begin: float, one: float, other: float
) -> None:
    shares = {"a": ramp(0.0, first, begin, begin), "b": constant(second)}
    progress = ExpectedProgress(shares, cells=50)
    early, late = sorted((one, other))
    for name in shares:
        assert 0.0 <= progress.of(name, early) <= progress.of(name, late) <= 1.0 + 1e-9
        assert progress.of(name, 1.0) == pytest.approx(1.0)
        assert progress.of(name, 0.0) == 0.0
