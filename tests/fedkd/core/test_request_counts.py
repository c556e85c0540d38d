"""Request counts: every sample that was asked or pulled back, and nothing beyond the budget."""

import pytest
import torch

from fedkd.core.checkpoint_state import State
from fedkd.core.request_counts import RequestCounts
from fedkd.errors import SettingsError
from fedkd.protocol import Ask, PullBack, Signal


def images(count: int) -> torch.Tensor:
    return torch.zeros(count, 1, 2, 2, dtype=torch.uint8)


def pull_back(count: int) -> PullBack:
    return PullBack(images(count), {Signal.LOGITS: torch.zeros(count, 3)})


def test_asked_is_counted_once_for_all_and_pulled_back_by_whoever_has_most() -> None:
    counts = RequestCounts(budget=100)
    for request in (Ask(images(7)), {}, {"a": pull_back(7), "b": pull_back(5)}, Ask(images(4))):
        counts.add(request)
    assert (counts.asked, counts.pulled_back) == (11, 7)
    again = RequestCounts(budget=100)
    again.restore(counts.state())
    again.add(Ask(images(1)))
    assert (again.asked, again.pulled_back) == (12, 7)


def test_asking_ends_with_the_budget_or_where_no_source_has_more_and_a_resumed_run_knows() -> None:
    counts, again, old = (RequestCounts(budget=10) for _ in range(3))
    counts.add(Ask(images(9)))
    assert counts.may_ask
    old.restore(State(numbers={"asked": 9, "pulled_back": 0}))  # of a release without the end
    assert old.may_ask
    old.add(Ask(images(1)))
    assert not old.may_ask
    counts.end()
    again.restore(counts.state())
    assert (counts.may_ask, again.may_ask) == (False, False)


def test_a_follow_up_beyond_the_budget_is_refused_and_names_the_source() -> None:
    counts = RequestCounts(budget=10)
    counts.add(Ask(images(6)))
    counts.expect_within_budget(Ask(images(4)), "generator")
    counts.expect_within_budget({"a": pull_back(6)}, "generator")  # costs no question
    with pytest.raises(SettingsError, match="source generator asks about 5 samples more") as caught:
        counts.expect_within_budget(Ask(images(5)), "generator")
    assert "\n" not in str(caught.value)
    assert counts.asked == 6
