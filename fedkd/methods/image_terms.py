"""Terms of pixels: what an image should look like before anybody was asked. Minimised, as all are.

Norms are Frobenius norms over the whole batch, not squared, as in the public code of DeepInversion.
"""

import torch
from torch import Tensor

from fedkd.methods.terms import Batch, Term


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


def magnitude() -> Term:
    """Norm of the batch; low: dark."""
    return Term("magnitude", "|x|_F", frozenset(), lambda b: _norm(b.images))


def _norm(x: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(x)
    return norm
