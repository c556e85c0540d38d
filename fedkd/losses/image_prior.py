"""Image-prior terms: total variation, norm, and how far answers move with pixels.

Norms are Frobenius norms over the whole batch, not squared, as in the public code of DeepInversion.
"""

import torch
from torch import Tensor

from fedkd.losses.term import Batch, Term
from fedkd.protocol import Signal


def total_variation() -> Term:
    """Differences of neighbours in four directions; low: smooth."""

    def value(b: Batch) -> Tensor:
        x = b.images
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
        "|x - x_right|_F + |x - x_below|_F + |x - x_diagonal|_F + |x - x_antidiagonal|_F",
        frozenset(),
        value,
    )


def l2_norm() -> Term:
    """Norm of the batch; low: dark."""
    return Term("l2_norm", "|x|_F", frozenset(), lambda b: _norm(b.images))


def mode_seeking() -> Term:
    """How far answers move for each step that pixels move; low: many images for one answer.

    The batch is two halves, compared image by image; the norms are of the whole half.
    """

    def value(b: Batch) -> Tensor:
        half = len(b.images) // 2
        p = b.teacher[Signal.LOGITS].softmax(1)
        answers = _norm(p[half : 2 * half] - p[:half])
        return answers / _norm(b.images[half : 2 * half] - b.images[:half]).clamp_min(1e-20)

    return Term("mode_seeking", "|p_2 - p_1|_F / |x_2 - x_1|_F", frozenset({Signal.LOGITS}), value)


def _norm(x: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(x)
    return norm
