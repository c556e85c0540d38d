"""Over a run an institution may change what it releases, and not what its teacher is."""

from dataclasses import replace
from typing import Any

import pytest

from fedkd.protocol import Card, Column, Guarantee, Number, Signal
from fedkd.server.hub.bans import BanReason
from fedkd.server.hub.participant import Participant

CARD = Card(
    *("north", 1, (1, 1, 1), frozenset({Signal.LOGITS})),
    columns=(Column("age", 0.0, 99.0),),
    numbers=(Number("cost", "EUR", 0.0, 100.0, error=5.0),),
    fedkd_version="0.2.0",
)


def refusal(**changes: Any) -> str | None:
    def banned(why: BanReason) -> None:
        raise AssertionError(why)

    rejection = Participant(CARD, 60.0, banned).rejection(replace(CARD, **changes))
    return None if rejection is None else rejection[1]


@pytest.mark.parametrize(
    "changes",
    [
        {"fedkd_version": "0.2.1"},
        {"guarantee": Guarantee(1.0, 1e-5, 10, 1.0, 0.1, 1.0)},
        {"numbers": (replace(CARD.numbers[0], error=None),)},
        {"signals": frozenset(), "samples": 10, "batch_statistics": True},
    ],
)
def test_an_institution_may_restart_with_another_policy_or_release(
    changes: dict[str, object],
) -> None:
    assert refusal(**changes) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"columns": (Column("age", 0.0, 9.0),)},
        {"numbers": (replace(CARD.numbers[0], unit="cent"),)},
        {"classes": 2, "numbers": (*CARD.numbers, Number("days"))},
        {"numbers": (), "class_names": ("ill",)},
    ],
)
def test_another_teacher_is_refused_with_what_stays_as_it_is(changes: dict[str, object]) -> None:
    assert "what its teacher reads and predicts stays as it is" in (refusal(**changes) or "")
