"""How a student depends on the columns of a table, beside the ensemble that taught it.

Everything is computed from the bank: nobody is asked again. Of a column the student has a partial
dependence (Friedman, 2001): its mean answer to banked rows in which that column is set to one
value. The ensemble cannot be asked about such rows, so it has its mean answer to the banked rows
whose column is near that value, and the student has the same beside it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedkd.evaluation import predict_logits
from fedkd.protocol.tables import BYTE_STEPS, Column, decode_rows, encode_rows
from fedkd.server.report.records.sample_history import SampleHistory

MAIN_COLUMNS = 6
"""Columns that have curves: those on which the student depends most."""
BINS = 12
"""Values of a column at which a curve has points; of levels at most, the commonest."""
_LEAST_ROWS = 5
"""Rows near a value, below which the mean of their answers is not shown."""
_CURVE_ROWS = 400
"""Banked rows in which a column is set."""
_MEAN_ROWS = 4000
"""Banked rows over whose answers means are taken."""
_SHUFFLED_ROWS = (16, 256)
"""Least and most rows by which the dependence on a column is measured."""
_SHUFFLED_VALUES = 200_000
"""Rows of all columns together, for tables of many columns."""
_TIE = 0.99
"""Share of the largest spread from which an output counts as equally spread."""

Answer = Callable[[Tensor], Tensor]
"""(B, 1, 1, D) uint8 -> (B, K), for people."""


@dataclass(frozen=True, eq=False)
class DependenceCurves:
    """Of M main columns at B values each; NaN where there is none."""

    column: Tensor
    """(M,) indices of the columns, the most important first."""
    output: Tensor
    """(M,) indices of the outputs that are shown."""
    at: Tensor
    """(M, B) values of the column, in its unit; of levels their index."""
    student: Tensor
    """(M, B) partial dependence of the student."""
    student_near: Tensor
    """(M, B) mean answer of the student to the rows near the value."""
    ensemble_near: Tensor
    """(M, B) mean answer of the ensemble to the same rows."""


def column_importance(answer: Answer, rows: Tensor, rng: torch.Generator) -> Tensor:
    """Root mean squared change of the answer where a column is shuffled among the rows.

    Permutation importance (Breiman, 2001), of the answers themselves and not of a score.

    Args:
        answer: of the student.
        rows: (N, 1, 1, D) uint8.
        rng: shuffles.

    Returns:
        (D,).
    """
    before, columns = answer(rows), rows.shape[-1]
    changes = torch.zeros(columns, dtype=torch.float64)
    for column in range(columns):
        shuffled = rows.clone()
        shuffled[..., column] = rows[torch.randperm(len(rows), generator=rng), ..., column]
        changes[column] = (answer(shuffled) - before).double().square().mean().sqrt()
    return changes


def dependence(
    history: SampleHistory, columns: Sequence[Column], rng: torch.Generator
) -> tuple[Tensor, DependenceCurves]:
    """Importance of every column (D,), and the curves of the main ones."""

    def answer(rows: Tensor) -> Tensor:
        return history.task.readable(predict_logits(history.student, rows))

    least, most = _SHUFFLED_ROWS
    count = min(most, max(least, _SHUFFLED_VALUES // len(columns)))
    importance = column_importance(answer, history.images[history.evenly(count)], rng)
    main = importance.argsort(descending=True, stable=True)[:MAIN_COLUMNS]
    picked = history.evenly(_MEAN_ROWS)
    near = _Near(history, picked, answer(history.images[picked]))
    rows = history.images[history.evenly(_CURVE_ROWS)]
    curves = [_curve(int(index), columns[int(index)], rows, answer, near) for index in main]
    stacked = [torch.stack(parts) for parts in zip(*curves, strict=True)]
    return importance, DependenceCurves(main, *stacked)


class _Near:
    """Mean answers of student and ensemble to rows with a column near a value."""

    def __init__(self, history: SampleHistory, picked: Tensor, student: Tensor) -> None:
        self.rows, self.student = history.images[picked], student
        self.ensemble = history.task.readable(history.targets[picked])

    def means(self, index: int, column: Column, at: Tensor, output: int) -> tuple[Tensor, Tensor]:
        """Of values ``at`` (B,): the means of student and ensemble; NaN of too few rows."""
        values = decode_rows(self.rows[..., index : index + 1], [column])[:, 0]
        distance = (values[:, None] - at).abs()
        place = distance.argmin(1)
        close = distance.amin(1) < 0.5 if column.levels else torch.ones(len(values)).bool()
        count = torch.bincount(place[close], minlength=len(at)).double()

        def mean(of: Tensor) -> Tensor:
            total = torch.zeros(len(at), dtype=torch.float64)
            total.index_add_(0, place[close], of[close, output].double())
            return torch.where(count >= _LEAST_ROWS, total / count, math.nan)

        return mean(self.student), mean(self.ensemble)


def _curve(
    index: int, column: Column, rows: Tensor, answer: Answer, near: _Near
) -> tuple[Tensor, ...]:
    """Output, values, student's partial dependence, and both means near the values; (B,) each."""
    at = _values(column, near.rows[..., index : index + 1])
    encoded = encode_rows(at[:, None], [column]).flatten() * (BYTE_STEPS - 1)
    means = []
    for value in encoded.round().to(torch.uint8):
        fixed = rows.clone()
        fixed[..., index] = value
        means.append(answer(fixed).double().mean(0))
    table = torch.stack(means)  # (B, K)
    spread = (table.amax(0) - table.amin(0)).nan_to_num()
    # Of two classes both spread alike; then the last one is shown, in all pictures the same.
    output = int((spread >= _TIE * spread.max()).nonzero().max())
    student, ensemble = near.means(index, column, at, output)
    points = (at, table[:, output], student, ensemble)
    return torch.tensor(output), *(_padded(each) for each in points)


def _values(column: Column, rows: Tensor) -> Tensor:
    """Values at which a curve has points, in the column's unit: at most `BINS`."""
    if column.levels:
        kept = decode_rows(rows, [column])[:, 0].long()
        common = kept.bincount(minlength=len(column.levels)).argsort(descending=True, stable=True)
        return common[:BINS].sort().values.double()
    span = column.high - column.low
    if column.whole and span < BINS:
        return torch.arange(math.ceil(column.low), math.floor(column.high) + 1).double()
    return column.low + span * (torch.arange(BINS).double() + 0.5) / BINS


def _padded(values: Tensor) -> Tensor:
    return torch.nn.functional.pad(values, (0, BINS - len(values)), value=math.nan)
