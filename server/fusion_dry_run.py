"""Dry run of the aggregation on logits of zero: whether these cards can be fused at all.

It comes before an institution is admitted and before its card is recorded, so that a card which no
check foresaw costs that institution its place, and not the coordinator its run.
"""

from collections.abc import Sequence

import torch

from fedkd.loop import Distillation
from fedkd.protocol import Card, Reply, Signal
from fedkd.tasks import task_of
from fedkd.wire import one_line

ROWS = 2
"""Rows of an answer of zeros."""


def fusion_failure(run: Distillation, cards: Sequence[Card]) -> str | None:
    """Why answers of these institutions cannot be fused, in one line; None if they can.

    Args:
        run: whose aggregation fuses them.
        cards: of all whose answers would be fused.
    """
    if len(cards) > 1 and run.method.reads_features:
        return "this run reads the features of one institution, which share no space with others"
    zeros = {
        card.name: Reply({Signal.LOGITS: torch.zeros(ROWS, card.classes, dtype=torch.float16)})
        for card in cards
    }
    try:
        fused = run.aggregation.fusion(cards).of(zeros)[Signal.LOGITS]
    except Exception as error:  # whatever a card makes an aggregation raise
        return one_line(str(error)) or type(error).__name__
    expected = (ROWS, task_of(cards).target_width)
    if tuple(fused.shape) != expected:
        return f"they fuse to {tuple(fused.shape)}, expected {expected}"
    return None if bool(torch.isfinite(fused).all()) else "they fuse to values that are not finite"
