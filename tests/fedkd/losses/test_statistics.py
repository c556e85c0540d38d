"""Terms that are a teacher's own number: the batch-norm gap, and the activation."""

import pytest
import torch

from fedkd.losses import Batch, activation, bn_gap
from fedkd.protocol import Signal


def test_the_gap_is_the_teachers_signal() -> None:
    gap = torch.tensor(0.3, requires_grad=True)
    logits = torch.zeros(2, 3)
    seen = Batch(torch.zeros(2, 1, 2, 2), {Signal.LOGITS: logits, Signal.BN_GAP: gap}, logits)
    assert bn_gap().value(seen) is gap
    assert bn_gap().needs == {Signal.BN_GAP}


def test_the_activation_is_pushed_up() -> None:
    size = torch.tensor(0.7)
    seen = Batch(torch.zeros(2, 1, 2, 2), {Signal.ACTIVATION: size}, torch.zeros(2, 3))
    assert float(activation().value(seen)) == pytest.approx(-0.7)
    assert activation().needs == {Signal.ACTIVATION}
