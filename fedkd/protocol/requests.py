"""Requests of the coordinator, replies and refusals of institutions, and digests of requests.

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
"""Length of a digest: long enough that nobody can find two contents that share one."""
BATCH_STATISTICS = b" batch statistics"
"""In the digest of a request for them alone, so that digests of all others stay what they were."""


@dataclass(frozen=True, eq=False)
class Ask:
    """A query to every institution: signals of its teacher on these samples."""

    images: Tensor
    """``(B, C, H, W)``."""
    signals: frozenset[Signal] = frozenset({Signal.LOGITS})
    exact: bool = False
    """Answer in float32, not rounded: for gradients, which do not forgive rounding."""
    recipe: Recipe | None = None
    """From which the same samples can be rendered, uint8; None where there is none."""
    batch_statistics: bool = False
    """Batch-norm layers of the teacher normalise by the statistics of these samples, in place of
    their running ones. The answer belongs to the whole batch: it is never split."""


@dataclass(frozen=True, eq=False)
class PullBack:
    """A query to one institution: the vector-Jacobian product of its signals.

    The samples are repeated, so that the institution stores nothing between queries and a retry
    is safe.
    """

    images: Tensor
    """``(B, C, H, W)``, as they were asked."""
    cotangents: Mapping[Signal, Tensor]
    """d loss / d signal, shaped like the signal, float32."""
    batch_statistics: bool = False
    """As of the `Ask` that it belongs to."""


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
    """More samples than it takes in one query."""
    MALFORMED = "malformed"
    """Wrong shape, type or range."""
    FAILED = "failed"
    """The teacher could not compute it. The cause stays at the institution."""
    CLOSED = "closed"
    """Outside the hours in which it answers."""
    RATE = "rate"
    """Its rate limit of samples per hour is reached."""
    UNDRAWN = "undrawn"
    """Samples that it rendered from a recipe have another fingerprint: send the samples."""


@dataclass(frozen=True)
class Refusal:
    """Why an institution does not answer. ``text`` may be shown and holds nothing private."""

    reason: Reason
    text: str


Answers: TypeAlias = Mapping[str, Reply]
"""Replies by name of institution. Those that refused or were lost are absent."""

Request: TypeAlias = Ask | Mapping[str, PullBack]
"""What the loop yields: one `Ask` for everybody, or a `PullBack` for each institution by name."""


def with_batch_statistics(request: Request, wanted: bool) -> Request:
    """The same request, for answers by the statistics of its batch where they are ``wanted``."""
    if not wanted:
        return request
    if isinstance(request, Ask):
        return replace(request, batch_statistics=True)
    return {name: replace(pull, batch_statistics=True) for name, pull in request.items()}


def without_recipe(request: Request) -> Request:
    """The same request with its samples alone."""
    return replace(request, recipe=None) if isinstance(request, Ask) else request


def fingerprint(tensor: Tensor) -> bytes:
    """Digest of a tensor's type, shape and contents, 16 bytes."""
    hasher = blake3()
    _update(hasher, "", tensor)
    return hasher.digest(DIGEST_BYTES)


def digest(request: Request | PullBack) -> bytes:
    """Digest of everything that a request asks, 16 bytes: equal for equal requests."""
    hasher = blake3()
    if isinstance(request, Ask):
        _update(hasher, "ask", request.images)
        hasher.update(f"{sorted(request.signals)} {request.exact}".encode())
        hasher.update(BATCH_STATISTICS if request.batch_statistics else b"")
        return hasher.digest(DIGEST_BYTES)
    pulls = {"": request} if isinstance(request, PullBack) else request
    for name in sorted(pulls):
        _update(hasher, name, pulls[name].images)
        for signal in sorted(pulls[name].cotangents):
            _update(hasher, signal, pulls[name].cotangents[signal])
        hasher.update(BATCH_STATISTICS if pulls[name].batch_statistics else b"")
    return hasher.digest(DIGEST_BYTES)


def _update(hasher: blake3, name: str, tensor: Tensor) -> None:
    hasher.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
    hasher.update(np.ascontiguousarray(tensor.detach().numpy()).reshape(-1).view(np.uint8).data)
