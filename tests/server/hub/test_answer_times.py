"""Quantiles of answer times from buckets are right to a tenth, and add up over resumed runs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkd.server.hub.answer_times import (
    BUCKETS,
    RATIO,
    SHORTEST,
    AnswerTimes,
    answer_time_quantile,
)

LONGEST = SHORTEST * RATIO ** (BUCKETS - 1)
TIMES = st.lists(st.floats(2 * SHORTEST, LONGEST), min_size=1, max_size=50)


def counters(times: list[float]) -> dict[str, int]:
    counted = AnswerTimes()
    for each in times:
        counted.add(each)
    return counted.counters


@given(TIMES, st.sampled_from([0.5, 0.9, 1.0]))
def test_a_quantile_is_right_to_a_tenth(times: list[float], share: float) -> None:
    exact = float(np.quantile(times, share, method="inverted_cdf"))
    assert answer_time_quantile(counters(times), share) == pytest.approx(exact, rel=0.1)


@given(TIMES, TIMES)
def test_counters_of_two_lives_of_a_run_add_up(before: list[float], after: list[float]) -> None:
    added = {
        name: counters(before).get(name, 0) + counters(after).get(name, 0)
        for name in {**counters(before), **counters(after)}
    }
    assert answer_time_quantile({**added, "answers": 7}, 0.5) == answer_time_quantile(
        counters(before + after), 0.5
    )


def test_what_is_out_of_range_is_counted_at_its_ends() -> None:
    assert answer_time_quantile(counters([0.0]), 0.5) == SHORTEST
    assert answer_time_quantile(counters([1e9]), 0.5) == pytest.approx(LONGEST, rel=0.1)
    assert answer_time_quantile({"answers": 3}, 0.5) is None


def test_a_copy_stays_as_it_was() -> None:
    counted = AnswerTimes()
    counted.add(0.1)
    copy = counted.copy()
    counted.add(0.1)
    assert sum(copy.counters.values()) == 1
