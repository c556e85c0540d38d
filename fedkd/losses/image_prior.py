"""Image-prior terms: total variation, norm, and how far answers move with pixels.

Norms are Frobenius norms over the whole batch, not squared, as in the public code of DeepInversion.
They are of normalised images, as in the papers, so that the papers' weights mean the same here:
``n(x) = (x - 1/2) / PIXEL_DEVIATION``. Mean and deviation of the training images are nobody's to
know, so they are those of natural images in general.
"""

import torch
from torch import Tensor

from fedkd.losses.term import Batch, Term
from fedkd.protocol import Signal

PIXEL_DEVIATION = 0.25
"""Of pixels in [0, 1], about that of natural images: CIFAR-10's three channels have 0.24 to 0.26.
One unit of the papers' normalised images is so much."""


def total_variation() -> Term:
    """Differences of neighbours in four directions; low: smooth."""

    def value(b: Batch) -> Tensor:
        x = b.images / PIXEL_DEVIATION
        return torch.stack(
            [
                _norm(x[..., :, :-1] - x[..., :, 1:]),
                _norm(x[..., :-1, :] - x[..., 1:, :]),
                _norm(x[..., :-1, :-1] - x[..., 1:, 1:]),
                _norm(x[..., 1:, :-1] - x[..., :-1, 1:]),
            ]
        ).sum()

    return Term(
        "total_variation",
        "|n - n_right|_F + |n - n_below|_F + |n - n_diagonal|_F + |n - n_antidiagonal|_F, n = n(x)",
        frozenset(),
        value,
    )


def l2_norm() -> Term:
    """Norm of the batch of normalised images; low: grey."""
    return Term("l2_norm", "|n(x)|_F", frozenset(), lambda b: _norm(normalised(b.images)))


def mode_seeking() -> Term:
    """How far answers move for each step that pixels move; low: many images for one answer.

    The batch is two halves, compared image by image; the norms are of the whole half.
    """

    def value(b: Batch) -> Tensor:
        half = len(b.images) // 2
        p = b.teacher[Signal.LOGITS].softmax(1)
        answers = _norm(p[half : 2 * half] - p[:half])
        pixels = _norm(b.images[half : 2 * half] - b.images[:half]) / PIXEL_DEVIATION
        return answers / pixels.clamp_min(1e-20)

    equation = "|p_2 - p_1|_F / |n(x_2) - n(x_1)|_F"
    return Term("mode_seeking", equation, frozenset({Signal.LOGITS}), value)


def normalised(images: Tensor) -> Tensor:
    """n(x): images in [0, 1] in the papers' units, (B, C, H, W)."""
    return (images - 0.5) / PIXEL_DEVIATION


def _norm(x: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(x)
    return norm
