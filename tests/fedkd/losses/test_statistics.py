"""The batch-norm term: it is the teacher's signal, and has to be asked for."""

import torch

from fedkd.losses import Batch, bn_gap
from fedkd.protocol import Signal


def test_the_gap_is_the_teachers_signal() -> None:
    gap = torch.tensor(0.3, requires_grad=True)
    logits = torch.zeros(2, 3)
    seen = Batch(torch.zeros(2, 1, 2, 2), {Signal.LOGITS: logits, Signal.BN_GAP: gap}, logits)
    assert bn_gap().value(seen) is gap
    assert bn_gap().needs == {Signal.BN_GAP}
