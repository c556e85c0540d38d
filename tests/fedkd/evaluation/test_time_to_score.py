"""Time to score: the first evaluation near the final score."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkd.evaluation import ScoreDuringRun, time_to_score

RUN = [
    ScoreDuringRun(score, 64 * place, float(place))
    for place, score in enumerate([0.1, 0.6, 0.76, 0.7, 0.8])
]


def test_first_evaluation_with_95_percent_of_the_final_score() -> None:
    assert time_to_score(RUN, 0.8) == RUN[2]  # 0.95 * 0.8 = 0.76
    assert time_to_score(RUN, 0.6) == RUN[1]
    assert time_to_score(RUN, 0.8, share=1.0) == RUN[4]


@pytest.mark.parametrize("final", [None, 0.0, -0.4, 0.9, float("nan")])
def test_unknown_where_nothing_reaches_it(final: float | None) -> None:
    assert time_to_score(RUN, final) is None


@given(st.lists(st.floats(0, 1), max_size=20), st.floats(0.01, 1), st.floats(0.1, 1))
def test_nothing_before_it_is_as_good(scores: list[float], final: float, share: float) -> None:
    run = [ScoreDuringRun(score, place, None) for place, score in enumerate(scores)]
    found = time_to_score(run, final, share)
    before = run if found is None else run[: run.index(found)]
    assert all(each.score < share * final for each in before)
    assert found is None or found.score >= share * final
