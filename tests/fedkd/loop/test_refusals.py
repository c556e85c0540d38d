"""What cannot be run is refused in one line, before anything is asked."""

from dataclasses import replace

import pytest

from fedkd.errors import NeedsError, SettingsError
from fedkd.loop import Plan, distil
from fedkd.methods import Method, cudfkd, hidfd
from fedkd.privacy import Policy
from fedkd.procedural import build_priors
from fedkd.protocol import Card, Signal
from tests.support.gated_institutions import TINY, GatedInstitutions, linear, public_samples

LOGITS, BN_GAP = Signal.LOGITS, Signal.BN_GAP
CARDS = GatedInstitutions().cards
LOGITS_ONLY = Policy(frozenset({LOGITS}), class_counts=True)


@pytest.mark.parametrize(
    ("method", "cards", "error", "words"),
    [
        (cudfkd(), (), SettingsError, ["no institution to ask"]),
        (
            cudfkd(),
            (CARDS[0], replace(CARDS[1], classes=4)),
            SettingsError,
            ["the student answers (1, 3)", "4 classes (0, 1, 2, 3)", "nobody knows"],
        ),
        (
            cudfkd(),
            (CARDS[0], replace(CARDS[1], shape=(3, 4, 4))),
            SettingsError,
            ["institution-1", "(3, 4, 4)", "institution-0", "(1, 4, 4)", "must agree"],
        ),
        (
            cudfkd("pull_back"),
            CARDS,
            NeedsError,
            ["cudfkd needs bn_gap", "term bn_gap", "institution-0", "policy.signals"],
        ),
        (
            cudfkd("pull_back", bn_weight=0.0),
            GatedInstitutions(policy=LOGITS_ONLY).cards,
            NeedsError,
            ["pull_back", "institution-0", "policy.pull_back = true"],
        ),
        (
            cudfkd(),
            (CARDS[0], replace(CARDS[1], signals=frozenset({BN_GAP}))),
            NeedsError,
            ["needs logits", "institution-1"],
        ),
        (hidfd(), CARDS, SettingsError, ["hidfd needs public samples", "images.public"]),
    ],
)
def test_the_impossible_is_refused_in_one_line_before_the_first_question(
    method: Method, cards: tuple[Card, ...], error: type[SettingsError], words: list[str]
) -> None:
    with pytest.raises(error) as caught:
        next(distil(linear(0), method, cards, Plan(10), build_priors("noise")))
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_public_samples_that_a_method_has_no_use_for_are_refused() -> None:
    public = public_samples(hidfd(), TINY)
    loop = distil(linear(0), cudfkd(), CARDS, Plan(10), build_priors("noise"), public=public)
    with pytest.raises(SettingsError, match="cudfkd has no use for public samples"):
        next(loop)
