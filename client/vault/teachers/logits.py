"""Teachers that only say scores: what is common to files, estimators and servers without gradient.

Knows no format. A format hands over a function from pixels to scores; here pixels are scaled and
cut to its batch, and what it says is checked before anybody believes it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedkd.client.vault.teachers.spec import TeacherSpec
from fedkd.errors import DataError, NeedsError
from fedkd.models.teacher import CHUNK, LEAST_PROBABILITY, must_know
from fedkd.protocol.signals import Signal, as_float

Say: TypeAlias = Callable[[NDArray[np.float32]], NDArray[Any]]
"""(B, C, H, W) scaled pixels -> (B, K) logits or probabilities."""

ROUNDING = 1e-2
"""How far a probability may lie outside [0, 1], since servers round to 16 bits."""


class LogitsTeacher:
    """Says LOGITS and has no gradient. Several threads may ask it, if they may ask ``say``.

    Args:
        say: the format's own.
        spec: gives K, scaling, and whether probabilities are said.
        most: images handed to ``say`` at once.
        fixed: whether ``say`` takes neither more nor fewer than that.
    """

    differentiable = False
    signals = frozenset({Signal.LOGITS})

    def __init__(self, say: Say, spec: TeacherSpec, most: int = CHUNK, fixed: bool = False) -> None:
        self.classes = spec.classes
        self._say, self._spec, self._most, self._fixed = say, spec, most, fixed

    def ask(self, images: Tensor, signals: frozenset[Signal]) -> dict[Signal, Tensor]:
        """See `fedkd.models.teacher.Teacher.ask`.

        Raises:
            NeedsError: more than LOGITS is asked.
            DataError: what was said is not (B, K) finite scores.
        """
        must_know(signals, self.signals)
        said = [self._said(piece) for piece in torch.split(images, self._most)]
        return {signal: torch.from_numpy(np.concatenate(said)) for signal in signals}

    def pull_back(self, images: Tensor, cotangents: Mapping[Signal, Tensor]) -> Tensor:
        """Always raises.

        Raises:
            NeedsError: it has no gradient.
        """
        raise NeedsError("this teacher has no gradient; choose a method that pulls nothing back")

    def _said(self, piece: Tensor) -> NDArray[np.float32]:
        pixels = np.ascontiguousarray(scaled(as_float(piece), self._spec).numpy())
        if self._fixed and len(piece) < self._most:
            missing = self._most - len(piece)
            pixels = np.concatenate([pixels, np.zeros((missing, *pixels.shape[1:]), np.float32)])
        scores = self._say(pixels)
        if scores.shape != (len(pixels), self.classes):
            raise DataError(
                f"{self._spec.source} answers {list(scores.shape)} to {len(pixels)} images, "
                f"expected [{len(pixels)}, {self.classes}]; correct classes or output_name"
            )
        scores = scores[: len(piece)]
        if self._spec.outputs == "probabilities":
            scores = logarithm(scores, self._spec.source)
        with np.errstate(over="ignore"):  # what does not fit becomes infinite
            single: NDArray[np.float32] = scores.astype(np.float32)
        if not np.isfinite(single).all():
            raise DataError(f"{self._spec.source} answers numbers that are not finite")
        return single


def scaled(images: Tensor, spec: TeacherSpec) -> Tensor:
    """(B, C, H, W) in [0, 1] -> (image - mean) / std, where the owner gives them."""
    if spec.mean is None or spec.std is None:
        return images
    mean, std = (torch.tensor(v, dtype=torch.float32).view(-1, 1, 1) for v in (spec.mean, spec.std))
    return (images - mean) / std


def logarithm(probabilities: NDArray[Any], who: str) -> NDArray[Any]:
    """Of (B, K) probabilities; the least are `fedkd.models.teacher.LEAST_PROBABILITY`.

    Raises:
        DataError: they are no probabilities.
    """
    if not (probabilities.min() >= -ROUNDING and probabilities.max() <= 1 + ROUNDING):
        raise DataError(
            f"{who} answers numbers outside [0, 1], which are no probabilities; correct outputs"
        )
    logits: NDArray[Any] = np.log(np.maximum(probabilities, LEAST_PROBABILITY))
    return logits


@dataclass(frozen=True)
class Layout:
    """How an input of declared dimensions takes a batch of images."""

    batch: int | None
    """Images that it takes at once, no more and no fewer; None for any number."""
    item: tuple[int, ...]
    """One image: (C, H, W), or (C * H * W,) row by row."""

    def teacher(self, say: Say, spec: TeacherSpec, most: int) -> LogitsTeacher:
        """A teacher that hands over batches of this layout."""
        return LogitsTeacher(
            lambda pixels: say(pixels.reshape(len(pixels), *self.item)),
            spec,
            self.batch or most,
            fixed=self.batch is not None,
        )


def layout(declared: Sequence[Any], spec: TeacherSpec) -> Layout:
    """How the owner's images fit an input; a dimension that is no number >= 1 may be any.

    Raises:
        DataError: they do not.
    """

    def fits(item: tuple[int, ...]) -> bool:
        dims = list(declared[1:])
        return len(dims) == len(item) and all(
            not _counts(dim) or dim == own for dim, own in zip(dims, item, strict=True)
        )

    for item in (spec.shape, (math.prod(spec.shape),)):
        if fits(item):
            return Layout(declared[0] if _counts(declared[0]) else None, item)
    raise DataError(
        f"{spec.source} reads {list(declared)} and the images are [batch, "
        f"{', '.join(map(str, spec.shape))}]; give the shape that it was trained on"
    )


def _counts(dimension: Any) -> bool:
    return isinstance(dimension, int) and not isinstance(dimension, bool) and dimension >= 1
