"""Who is waited for before a run begins or goes on, and how long."""

import time

import pytest

from fedkd.server.run.quorum import Quorum

LONG = 60.0
QUICK = 0.3


@pytest.mark.parametrize(
    ("quorum", "here", "least", "most"),
    [
        (Quorum(3, 2, LONG), 3, 0.0, 5.0),
        (Quorum(3, 2, QUICK), 2, QUICK, 5.0),
        (Quorum(3, 2, QUICK), 1, QUICK, 5.0),
        (Quorum(3, 2, LONG, linger=QUICK), 2, QUICK, 5.0),
        (Quorum(3, 2, QUICK, linger=LONG), 2, QUICK, 5.0),
        (Quorum(3, 2, LONG, linger=LONG), 3, 0.0, 5.0),
        (Quorum(3, 2, QUICK, linger=0.0), 0, QUICK, 5.0),
    ],
)
def test_all_are_waited_for_until_a_quorum_has_waited_enough(
    quorum: Quorum, here: int, least: float, most: float
) -> None:
    began = time.monotonic()
    assert quorum.wait_for(lambda: range(here)) == tuple(range(here))
    assert least <= time.monotonic() - began < most


def test_a_quorum_that_falls_apart_is_waited_for_again() -> None:
    counts = iter([2, 1, 1, 1, 1, 1, 2])
    reported: list[int] = []
    quorum = Quorum(3, 2, LONG, linger=0.15)
    assert len(quorum.wait_for(lambda: range(next(counts)), reported.append)) == 2
    assert reported == [2, 1, 1, 1, 1, 1, 2]
