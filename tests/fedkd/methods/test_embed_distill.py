"""EmbedDistill asks for relations or features, and only of those who output an embedding."""

from dataclasses import replace

import pytest
import torch

from fedkd.errors import NeedsError, SettingsError
from fedkd.methods import cudfkd, embed_distill
from fedkd.protocol import Card, Signal
from fedkd.protocol.label_spaces import sample_mismatch

NORTH = Card("north", 8, (1, 8, 8), frozenset(Signal) - {Signal.LOGITS}, embedding=True)
CLASSES = Card("south", 8, (1, 8, 8), frozenset(Signal))


def test_it_asks_for_what_it_learns_from() -> None:
    assert set(embed_distill().needs.signals) == {Signal.RELATIONS}
    assert set(embed_distill("asymmetric").needs.signals) == {Signal.FEATURES}
    assert embed_distill(gallery=True).needs.public_data
    embed_distill(loss="kl").check([NORTH])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"form": "other"}, "relations or asymmetric"),
        ({"loss": "l1"}, "squared or kl"),
        ({"temperature": 0.0}, "more than 0"),
    ],
)
def test_what_it_does_not_know_is_refused(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        embed_distill(**arguments)  # type: ignore[arg-type]


def test_each_kind_of_teacher_has_its_methods() -> None:
    with pytest.raises(NeedsError, match="outputs an embedding"):
        cudfkd().check([NORTH])
    with pytest.raises(NeedsError, match="is for embedding"):
        embed_distill().check([CLASSES])
    kept = replace(NORTH, signals=frozenset({Signal.FEATURES}))
    with pytest.raises(NeedsError, match="needs relations"):
        embed_distill().check([kept])
    assert "embedding" in str(sample_mismatch(replace(CLASSES, shape=NORTH.shape), NORTH))


def test_rows_are_compared_by_the_loss_that_is_named() -> None:
    student, target = torch.eye(3), torch.eye(3)
    assert float(embed_distill().loss(student, target).sum()) == 0
    assert float(embed_distill("asymmetric").loss(student, -target).sum()) == pytest.approx(6.0)
