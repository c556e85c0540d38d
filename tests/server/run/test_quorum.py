"""Who is waited for before a run begins or goes on, and how long."""

import time

import pytest

from fedkd.server.run.quorum import Muster

LONG = 60.0
QUICK = 0.3


@pytest.mark.parametrize(
    ("muster", "here", "least", "most"),
    [
        (Muster(3, 2, LONG), 3, 0.0, 5.0),
        (Muster(3, 2, QUICK), 2, QUICK, 5.0),
        (Muster(3, 2, QUICK), 1, QUICK, 5.0),
        (Muster(3, 2, LONG, linger=QUICK), 2, QUICK, 5.0),
        (Muster(3, 2, QUICK, linger=LONG), 2, QUICK, 5.0),
        (Muster(3, 2, LONG, linger=LONG), 3, 0.0, 5.0),
        (Muster(3, 2, QUICK, linger=0.0), 0, QUICK, 5.0),
    ],
)
def test_all_are_waited_for_until_a_quorum_has_waited_enough(
    muster: Muster, here: int, least: float, most: float
) -> None:
    began = time.monotonic()
    assert muster.assemble(lambda: range(here)) == tuple(range(here))
    assert least <= time.monotonic() - began < most


def test_a_quorum_that_falls_apart_is_waited_for_again() -> None:
    counts = iter([2, 1, 1, 1, 1, 1, 2])
    told: list[int] = []
    muster = Muster(3, 2, LONG, linger=0.15)
    assert len(muster.assemble(lambda: range(next(counts)), told.append)) == 2
    assert told == [2, 1, 1, 1, 1, 1, 2]
