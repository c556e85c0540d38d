"""Requests of the coordinator and replies of institutions, and digests by which requests are compared.

Values here are frozen; tensors in them are not to be written to.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TypeAlias

import numpy as np
from blake3 import blake3
from torch import Tensor

from fedkd.protocol.recipes import Recipe
from fedkd.protocol.signals import Signal

DIGEST_BYTES = 16
"""Bytes by which contents are known again: nobody can find two that share them."""


@dataclass(frozen=True, eq=False)
class Ask:
    """A question, put to every institution: what does your teacher say of these images?"""

    images: Tensor
    """``(B, C, H, W)``."""
    signals: frozenset[Signal] = frozenset({Signal.LOGITS})
    exact: bool = False
    """Answer in float32, not rounded: for gradients, which do not forgive rounding."""
    recipe: Recipe | None = None
    """Of the same images, uint8; None where there is none. It asks nothing else than they do."""


@dataclass(frozen=True, eq=False)
class PullBack:
    """A question to one institution: the vector-Jacobian product of its signals.

    The images are repeated, so that the institution keeps nothing between questions and a retry
    is safe.
    """

    images: Tensor
    """``(B, C, H, W)``, as they were asked."""
    cotangents: Mapping[Signal, Tensor]
    """d loss / d signal, shaped like the signal, float32."""


@dataclass(frozen=True, eq=False)
class Reply:
    """What one institution released: signals for an `Ask`, a gradient for a `PullBack`."""

    signals: Mapping[Signal, Tensor] = field(default_factory=dict)
    gradient: Tensor | None = None
    """d loss / d images, ``(B, C, H, W)`` float32, images taken in [0, 1]."""


class Reason(StrEnum):
    """Why an institution did not answer."""

    FORBIDDEN = "forbidden"
    """Its policy does not release what was asked."""
    SPENT = "spent"
    """Its budget of samples is used up."""
    TOO_LARGE = "too_large"
    """More images than it takes in one question."""
    MALFORMED = "malformed"
    """Wrong shape, type or range."""
    FAILED = "failed"
    """The teacher could not compute it. The cause stays at the institution."""
    CLOSED = "closed"
    """Asked outside the hours in which it answers."""
    RATE = "rate"
    """Its samples of this hour are used up; later there are more."""
    UNDRAWN = "undrawn"
    """What it drew by a recipe is not what was meant: it has to be shown the images."""


@dataclass(frozen=True)
class Refusal:
    """An institution's no. ``text`` is fit for a coordinator's screen and holds nothing private."""

    reason: Reason
    text: str


Answers: TypeAlias = Mapping[str, Reply]
"""Replies by name of institution. Whoever refused or was lost is absent."""

Request: TypeAlias = Ask | Mapping[str, PullBack]
"""What the loop yields: one `Ask` for everybody, or a `PullBack` for each institution by name."""


def without_recipe(request: Request) -> Request:
    """The same request without a recipe."""
    return replace(request, recipe=None) if isinstance(request, Ask) else request


def fingerprint(tensor: Tensor) -> bytes:
    """Of a tensor's type, shape and contents, 16 bytes."""
    total = blake3()
    _feed(total, "", tensor)
    return total.digest(DIGEST_BYTES)


def digest(request: Request | PullBack) -> bytes:
    """Of everything that a request asks, 16 bytes: equal where the same is asked again."""
    total = blake3()
    if isinstance(request, Ask):
        _feed(total, "ask", request.images)
        total.update(f"{sorted(request.signals)} {request.exact}".encode())
        return total.digest(DIGEST_BYTES)
    pulls = {"": request} if isinstance(request, PullBack) else request
    for name in sorted(pulls):
        _feed(total, name, pulls[name].images)
        for signal in sorted(pulls[name].cotangents):
            _feed(total, signal, pulls[name].cotangents[signal])
    return total.digest(DIGEST_BYTES)


def _feed(total: blake3, name: str, tensor: Tensor) -> None:
    total.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
    total.update(np.ascontiguousarray(tensor.detach().numpy()).reshape(-1).view(np.uint8).data)
