"""What can be said between a coordinator and an institution. Knows no network and no model.

Shapes are letters, everywhere in this project:

    B batch   K classes   C H W channels, height, width   T teachers   Z latent   D features
    N images in a bank or a data set

Images are ``(B, C, H, W)``, either uint8 in 0..255 or float32 in [0, 1]; normalisation belongs to
the model that reads them. Values here are frozen; tensors in them are not to be written to.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TypeAlias

import numpy as np
import torch
from blake3 import blake3
from torch import Tensor

from fedkd.protocol.guarantee import Guarantee
from fedkd.protocol.quantisation import on_grids

DIGEST = 16
"""Bytes by which contents are known again: nobody can find two that share them."""


class Signal(StrEnum):
    """What a teacher can say of a batch."""

    LOGITS = "logits"
    """Class scores, ``(B, K)``."""

    BN_GAP = "bn_gap"
    """How far the batch is from the teacher's batch-norm statistics, ``()``; low is near.

    Computed at the institution, so that the statistics themselves never leave. It is a property
    of the whole batch: a batch that asks for it is never split.
    """

    FEATURES = "features"
    """What enters the teacher's last layer, ``(B, D)``."""


RECIPES = 1
"""Version of the book of recipes: it rises when a name or a seed comes to mean other images."""


@dataclass(frozen=True)
class Procedural:
    """A prior by name, see `fedkd.procedural.priors.prior`."""

    name: str
    warp: float = 0.0
    mix: float = 0.0


@dataclass(frozen=True, eq=False)
class Network:
    """A `fedkd.models.generators.Generator` that learns no more."""

    latent: int
    """Z."""
    digest: bytes
    """Of its weights, by `fingerprint`."""
    weights: Tensor | None = None
    """``(P,)`` float16, see `fedkd.procedural.renderer`; None: those that came before."""


@dataclass(frozen=True, eq=False)
class Recipe:
    """How images are drawn, so that they need not be shown. See `fedkd.procedural.renderer`."""

    source: Procedural | Network
    seed: int
    """In [0, 2**32)."""
    count: int
    """Images that are drawn."""
    kept: Tensor | None = None
    """``(count,)`` bool: which of them are meant; None: all."""

    def __len__(self) -> int:
        """B, images that are meant."""
        return self.count if self.kept is None else int(self.kept.sum())

    def only(self, which: Tensor) -> "Recipe":
        """Those of the images that are meant that are ``which``, (B,) bool."""
        if bool(which.all()):
            return self
        kept = torch.ones(self.count, dtype=torch.bool) if self.kept is None else self.kept.clone()
        kept[kept.clone()] = which
        return replace(self, kept=kept)


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


@dataclass(frozen=True)
class Card:
    """All that an institution tells the world about itself before the first question."""

    name: str
    classes: int
    """K: how many its teacher tells apart."""
    shape: tuple[int, int, int]
    """(C, H, W) of the images that its teacher reads."""
    signals: frozenset[Signal]
    """What its policy releases."""
    pull_back: bool = False
    """Whether it answers `PullBack`."""
    samples: int | None = None
    """Most images that it will be asked about, None for no cap."""
    largest_batch: int = 4096
    class_counts: tuple[int, ...] | None = None
    """Training images of each class, ``(K,)``: a disclosure, made only where the policy says so."""
    scores: bool = False
    """Whether it tells how well a student does on its private test data."""
    class_names: tuple[str, ...] | None = None
    """What it calls its classes, ``(K,)``, no two alike; None for the numbers from 0."""
    guarantee: Guarantee | None = None
    """The differential privacy that it says its answers have; None: it promises none."""
    recipes: int = 0
    """The `RECIPES` by which it draws images itself; 0: it wants to be shown them."""


Answers: TypeAlias = Mapping[str, Reply]
"""Replies by name of institution. Whoever refused or was lost is absent."""

Request: TypeAlias = Ask | Mapping[str, PullBack]
"""What the loop yields: one `Ask` for everybody, or a `PullBack` for each institution by name."""


def as_float(images: Tensor) -> Tensor:
    """Images as float32 in [0, 1], whatever they travelled as: uint8, or floats in [0, 1]."""
    return images.float() / 255.0 if images.dtype == torch.uint8 else images.float()


def rounded(value: Tensor, signal: Signal, exact: bool) -> Tensor:
    """A signal as it travels: in float32 if ``exact``, else in float16 within its range.

    Logits that need not be exact are put on grids, row by row, see `fedkd.protocol.quantisation`. A batch-norm gap
    is one number, and always float32.
    """
    if exact or signal is Signal.BN_GAP:
        return value.float()
    if signal is Signal.LOGITS:
        return on_grids(value.detach().float())
    largest = torch.finfo(torch.float16).max
    return value.clamp(-largest, largest).half()


def shown(request: Request) -> Request:
    """The same request without a recipe."""
    return replace(request, recipe=None) if isinstance(request, Ask) else request


def fingerprint(tensor: Tensor) -> bytes:
    """Of a tensor's type, shape and contents, 16 bytes."""
    total = blake3()
    _feed(total, "", tensor)
    return total.digest(DIGEST)


def digest(request: Request | PullBack) -> bytes:
    """Of everything that a request asks, 16 bytes: equal where the same is asked again."""
    total = blake3()
    if isinstance(request, Ask):
        _feed(total, "ask", request.images)
        total.update(f"{sorted(request.signals)} {request.exact}".encode())
        return total.digest(DIGEST)
    pulls = {"": request} if isinstance(request, PullBack) else request
    for name in sorted(pulls):
        _feed(total, name, pulls[name].images)
        for signal in sorted(pulls[name].cotangents):
            _feed(total, signal, pulls[name].cotangents[signal])
    return total.digest(DIGEST)


def _feed(total: blake3, name: str, tensor: Tensor) -> None:
    total.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
    total.update(np.ascontiguousarray(tensor.detach().numpy()).reshape(-1).view(np.uint8).data)
