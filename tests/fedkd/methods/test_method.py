"""A method as a value: what it needs is held against every card before the first question."""

import pytest

from fedkd.core.schedules import constant
from fedkd.errors import NeedsError, SettingsError
from fedkd.methods import Method, Share, cudfkd, hidfd
from fedkd.protocol import Card, Signal
from fedkd.synthesis import NONE, ProceduralPriors

LOGITS, BN_GAP = Signal.LOGITS, Signal.BN_GAP


def test_needs_are_held_against_every_card() -> None:
    told = frozenset({LOGITS, BN_GAP})
    cards = [Card(name, 4, (1, 2, 2), told, True) for name in ("east", "west")]
    cudfkd("pull_back").check(cards)
    silent = Card("north", 4, (1, 2, 2), frozenset({LOGITS}), True)
    with pytest.raises(NeedsError, match=r"bn_gap \(term bn_gap\), which north does not release"):
        cudfkd("pull_back").check([*cards, silent])
    cudfkd("pull_back", bn_weight=0.0).check([*cards, silent])
    cudfkd().check([silent])


def test_gradients_are_held_against_every_card() -> None:
    told = frozenset({LOGITS, BN_GAP})
    cards = [Card(name, 4, (1, 2, 2), told, name == "east") for name in ("east", "west")]
    with pytest.raises(NeedsError, match=r"gradients \(pull_back\), which west does not release"):
        cudfkd("pull_back").check(cards)
    cudfkd("straight_through", bn_weight=0.0).check(cards)


def test_public_samples_are_given_where_they_are_needed_and_nowhere_else() -> None:
    hidfd().check_public_data(True)
    cudfkd().check_public_data(False)
    with pytest.raises(SettingsError, match="hidfd needs public samples"):
        hidfd().check_public_data(False)
    with pytest.raises(SettingsError, match="cudfkd has no use for public samples"):
        cudfkd().check_public_data(True)


def test_a_method_of_two_values_asks_about_priors_and_weighs_all_samples_alike() -> None:
    method = Method("mine", "nobody")
    ((name, (spec, schedule)),) = method.sources.items()
    assert name == "prior"
    assert isinstance(spec, ProceduralPriors)
    assert schedule is not None
    assert (schedule(0.0), schedule(1.0)) == (1.0, 1.0)
    assert (method.cost, method.gradient, method.curriculum.kind) == (1, NONE, "none")
    assert method.rule_for("auto") == "auto"


@pytest.mark.parametrize(
    ("sources", "words"),
    [
        ({}, "no source has a share"),
        ({"prior": Share(ProceduralPriors(), None)}, "no source has a share"),
        ({"prior": Share(ProceduralPriors(), constant(-1.0))}, "share of prior is -1"),
    ],
)
def test_a_method_in_which_nobody_asks_is_refused(sources: dict[str, Share], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        Method("mine", "nobody", sources)
