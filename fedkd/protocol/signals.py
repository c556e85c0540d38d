"""Signals that a teacher computes on a batch, and the number formats in which they are sent.

Shapes are letters, everywhere in this project:

    B batch   K classes   C H W channels, height, width   T teachers   Z latent   D features
    N images in a bank or a data set

Images are ``(B, C, H, W)``, either uint8 in 0..255 or float32 in [0, 1]; normalisation belongs to
the model that reads them.
"""

from enum import StrEnum

import torch
from torch import Tensor

from fedkd.protocol.logit_quantisation import quantised
from fedkd.protocol.relations import relation_steps, relations_of_steps


class Signal(StrEnum):
    """What a teacher can compute on a batch."""

    LOGITS = "logits"
    """Class scores, ``(B, K)``."""

    BN_GAP = "bn_gap"
    """Distance of the batch from the teacher's batch-norm statistics, ``()``.

    Computed at the institution, so that the statistics themselves never leave. It is a property
    of the whole batch: a batch that asks for it is never split.
    """

    FEATURES = "features"
    """What enters the teacher's last layer, ``(B, D)``."""

    RELATIONS = "relations"
    """Cosines between the features of every two samples of the batch, ``(B, B)``.

    Computed at the institution, see `fedkd.protocol.relations`. Like the batch-norm gap it is a
    property of the whole batch, which is never split.
    """

    ACTIVATION = "activation"
    """Mean magnitude of what enters the teacher's last layer, over samples and features, ``()``.

    Computed at the institution, so that features never leave. It is a property of the whole batch,
    which is never split.
    """


WHOLE_BATCH = frozenset({Signal.BN_GAP, Signal.RELATIONS, Signal.ACTIVATION})
"""Signals of which a batch is never split."""
SCALARS = frozenset({Signal.BN_GAP, Signal.ACTIVATION})
"""Signals that are one number, and always float32."""


def as_float(images: Tensor) -> Tensor:
    """Images as float32 in [0, 1], from uint8 or floats in [0, 1]."""
    return images.float() / 255.0 if images.dtype == torch.uint8 else images.float()


def rounded(value: Tensor, signal: Signal, exact: bool) -> Tensor:
    """A signal as it is sent: in float32 if ``exact``, else in float16 within its range.

    Logits that need not be exact are quantised row by row, see
    `fedkd.protocol.logit_quantisation`, and relations to steps of 1/127, see
    `fedkd.protocol.relations`. What is one number is always float32.
    """
    if exact or signal in SCALARS:
        return value.float()
    if signal is Signal.LOGITS:
        return quantised(value.detach().float())
    if signal is Signal.RELATIONS:
        return relations_of_steps(relation_steps(value.detach()))
    largest = torch.finfo(torch.float16).max
    return value.clamp(-largest, largest).half()
