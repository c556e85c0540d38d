"""Terms for teachers of numbers: where student and teacher differ, and how far from the middle.

Outputs and columns are shares of their ranges, in [0, 1]. Terms are in the units of papers that
standardise both: a value that is uniform in its range has mean 1/2 and variance 1/12.
"""

from torch import Tensor

from fedkd.core.source_types import ANYTHING, NUMBERS
from fedkd.losses.term import LOGITS, Batch, Term
from fedkd.protocol import Signal

VARIANCE = 1 / 12
"""Of a uniform value in [0, 1]."""


def squared_discrepancy() -> Term:
    """Negative squared difference; low: student and teacher predict different numbers."""

    def value(b: Batch) -> Tensor:
        return -(b.teacher[Signal.LOGITS] - b.student).square().mean() / VARIANCE

    equation = "-mean_b mean_k 12 (T_bk - S_bk)^2"
    return Term("squared_discrepancy", equation, LOGITS, value, tasks=NUMBERS)


def student_magnitude() -> Term:
    """Squared distance of the student's numbers from the middle of their ranges; low: near it."""

    def value(b: Batch) -> Tensor:
        return (b.student - 0.5).square().mean() / VARIANCE

    equation = "mean_b mean_k 12 (S_bk - 1/2)^2"
    return Term("student_magnitude", equation, frozenset(), value, tasks=NUMBERS)


def row_magnitude() -> Term:
    """Squared distance of all rows of the batch from the middle of the table, summed."""

    def value(b: Batch) -> Tensor:
        return (b.images - 0.5).square().sum() / VARIANCE

    return Term("row_magnitude", "sum_b 12 |x_b - 1/2|^2", frozenset(), value, tasks=ANYTHING)
