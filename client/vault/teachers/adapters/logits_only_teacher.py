"""Teachers that give logits and no gradient: the part that files, estimators and servers share.

A format supplies a function from pixels to scores. Here pixels are normalised and cut into batches,
and the scores are checked.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedkd.client.vault.teachers.teacher_spec import TeacherSpec
from fedkd.errors import DataError, NeedsError
from fedkd.models import CHUNK, MIN_PROBABILITY, require_signals
from fedkd.protocol import Signal, as_float

ScoreFunction: TypeAlias = Callable[[NDArray[np.float32]], NDArray[Any]]
"""(B, C, H, W) scaled pixels -> (B, K) logits or probabilities."""

PROBABILITY_TOLERANCE = 1e-2
"""How far a probability may lie outside [0, 1], since servers round to 16 bits."""


class LogitsTeacher:
    """Gives LOGITS and has no gradient. As safe for threads as ``score_batch`` is.

    Args:
        score_batch: the format's own.
        spec: gives K, normalisation, and whether the scores are probabilities.
        batch: largest batch for ``score_batch``.
        fixed: whether every batch must have that size.
    """

    differentiable = False
    signals = frozenset({Signal.LOGITS})

    def __init__(
        self, score_batch: ScoreFunction, spec: TeacherSpec, batch: int = CHUNK, fixed: bool = False
    ) -> None:
        self.classes = spec.classes
        self._score_batch, self._spec = score_batch, spec
        self._batch, self._fixed = batch, fixed

    def ask(self, images: Tensor, signals: frozenset[Signal]) -> dict[Signal, Tensor]:
        """See `fedkd.models.teacher.Teacher.ask`.

        Raises:
            NeedsError: more than LOGITS is asked.
            DataError: the scores are not (B, K) and finite.
        """
        require_signals(signals, self.signals)
        logits = [self._logits(piece) for piece in torch.split(images, self._batch)]
        return {signal: torch.from_numpy(np.concatenate(logits)) for signal in signals}

    def pull_back(self, images: Tensor, cotangents: Mapping[Signal, Tensor]) -> Tensor:
        """Always raises.

        Raises:
            NeedsError: it has no gradient.
        """
        raise NeedsError("this teacher has no gradient; choose a method that pulls nothing back")

    def _logits(self, piece: Tensor) -> NDArray[np.float32]:
        pixels = np.ascontiguousarray(normalised(as_float(piece), self._spec).numpy())
        if self._fixed and len(piece) < self._batch:
            missing = self._batch - len(piece)
            pixels = np.concatenate([pixels, np.zeros((missing, *pixels.shape[1:]), np.float32)])
        scores = self._score_batch(pixels)
        if scores.shape != (len(pixels), self.classes):
            raise DataError(
                f"{self._spec.source} answers {list(scores.shape)} to {len(pixels)} images, "
                f"expected [{len(pixels)}, {self.classes}]; correct classes or output_name"
            )
        scores = scores[: len(piece)]
        if self._spec.outputs == "probabilities":
            scores = log_probabilities(scores, self._spec.source)
        with np.errstate(over="ignore"):  # what does not fit becomes infinite
            single: NDArray[np.float32] = scores.astype(np.float32)
        if not np.isfinite(single).all():
            raise DataError(f"{self._spec.source} answers numbers that are not finite")
        return single


def normalised(images: Tensor, spec: TeacherSpec) -> Tensor:
    """(B, C, H, W) in [0, 1] -> (image - mean) / std, where the owner gives them."""
    if spec.mean is None or spec.std is None:
        return images
    mean, std = (torch.tensor(v, dtype=torch.float32).view(-1, 1, 1) for v in (spec.mean, spec.std))
    return (images - mean) / std


def log_probabilities(probabilities: NDArray[Any], source: str) -> NDArray[Any]:
    """Logarithms of (B, K) probabilities, of at least `fedkd.models.teacher.MIN_PROBABILITY`.

    Raises:
        DataError: they are no probabilities.
    """
    low, high = -PROBABILITY_TOLERANCE, 1 + PROBABILITY_TOLERANCE
    if not (probabilities.min() >= low and probabilities.max() <= high):
        raise DataError(
            f"{source} answers numbers outside [0, 1], which are no probabilities; correct outputs"
        )
    logits: NDArray[Any] = np.log(np.maximum(probabilities, MIN_PROBABILITY))
    return logits


@dataclass(frozen=True)
class InputLayout:
    """How an input of declared dimensions takes a batch of images."""

    batch: int | None
    """The fixed batch size; None for any."""
    item: tuple[int, ...]
    """One image: (C, H, W), or (C * H * W,) row by row."""

    def teacher(self, score_batch: ScoreFunction, spec: TeacherSpec, batch: int) -> LogitsTeacher:
        """A teacher whose batches have this layout; ``batch`` is its largest if none is fixed."""
        return LogitsTeacher(
            lambda pixels: score_batch(pixels.reshape(len(pixels), *self.item)),
            spec,
            self.batch or batch,
            fixed=self.batch is not None,
        )


def input_layout(declared: Sequence[Any], spec: TeacherSpec) -> InputLayout:
    """How the owner's images fit a declared input; a dimension that is no number >= 1 is free.

    Raises:
        DataError: they do not fit.
    """

    def fits(item: tuple[int, ...]) -> bool:
        dims = list(declared[1:])
        return len(dims) == len(item) and all(
            not _counts(dim) or dim == own for dim, own in zip(dims, item, strict=True)
        )

    for item in (spec.shape, (math.prod(spec.shape),)):
        if fits(item):
            return InputLayout(declared[0] if _counts(declared[0]) else None, item)
    raise DataError(
        f"{spec.source} reads {list(declared)} and the images are [batch, "
        f"{', '.join(map(str, spec.shape))}]; give the shape that it was trained on"
    )


def _counts(dimension: Any) -> bool:
    return isinstance(dimension, int) and not isinstance(dimension, bool) and dimension >= 1
