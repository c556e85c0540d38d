"""What a student makes of the columns of a table, on students whose answers are known."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedkd.protocol import Column, Number
from fedkd.protocol.tables import decode_rows
from fedkd.server.report.records.sample_history import SampleHistory
from fedkd.server.report.tables.column_dependence import (
    BINS,
    MAIN_COLUMNS,
    column_importance,
    dependence,
)
from fedkd.tasks import Regression

AGE = Column("age", 20.0, 80.0)
WARD = Column("ward", 0.0, 2.0, levels=("north", "south", "west"))
BEDS = Column("beds", 1.0, 4.0, whole=True)
COLUMNS = (AGE, WARD, BEDS)


class Known(nn.Module):
    """0.6 of the age as a share of its range, and 0.2 more in the south."""

    def forward(self, rows: Tensor) -> Tensor:
        values = decode_rows((rows * 255).round().to(torch.uint8), COLUMNS)
        return (0.6 * (values[:, :1] - 20) / 60 + 0.2 * (values[:, 1:2] == 1)).float()


def history(rows: Tensor, targets: Tensor, student: nn.Module) -> SampleHistory:
    origin, at = np.full(len(rows), "uniform"), np.arange(len(rows))
    task = Regression((Number("cost"),))
    return SampleHistory(rows, targets, origin, at, student, task)


@pytest.fixture
def rows() -> Tensor:
    return torch.randint(
        256, (3000, 1, 1, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8
    )


def test_partial_dependence_of_a_known_student_is_what_it_computes(rows: Tensor) -> None:
    rng = torch.Generator().manual_seed(0)
    taught = Known()(rows / 255) + 0.1
    importance, curves = dependence(history(rows, taught, Known()), COLUMNS, rng)
    assert curves.column.tolist() == importance.argsort(descending=True).tolist() == [0, 1, 2]
    age, ward, beds = curves.student
    step = 0.6 / BINS
    assert age.diff() == pytest.approx(torch.full((BINS - 1,), step), abs=0.6 / 255)
    assert curves.at[0][[0, -1]].tolist() == [22.5, 77.5]
    assert ward[:3] - ward[0] == pytest.approx(torch.tensor([0.0, 0.2, 0.0]), abs=1e-6)
    assert curves.at[1][:3].tolist() == [0, 1, 2]
    assert curves.at[1][3:].isnan().all()
    assert curves.at[2][:4].tolist() == [1, 2, 3, 4], "each whole value is a point"
    assert beds[:4].max() - beds[:4].min() < 1e-6
    # The ensemble answers 0.1 more to the very same rows.
    near = curves.ensemble_near - curves.student_near
    assert near[~near.isnan()] == pytest.approx(0.1 * torch.ones(BINS + 3 + 4), abs=1e-5)


def test_importance_is_the_change_where_a_column_is_shuffled(rows: Tensor) -> None:
    rng = torch.Generator().manual_seed(0)
    found = column_importance(lambda given: given[:, 0, 0, :1] / 255.0, rows, rng)
    # Two independent draws from 0 to 1 have a mean squared distance of 1 / 6.
    assert found[0] == pytest.approx(6**-0.5, rel=0.05)
    assert found[1:].tolist() == [0.0, 0.0]


def test_a_student_without_finite_answers_still_has_curves(rows: Tensor) -> None:
    class Diverged(nn.Module):
        def forward(self, given: Tensor) -> Tensor:
            return torch.full((len(given), 1), torch.nan)

    few = rows[:20]
    rng = torch.Generator().manual_seed(0)
    importance, curves = dependence(history(few, torch.zeros(20, 1), Diverged()), COLUMNS, rng)
    assert importance.isnan().all()
    assert len(curves.column) == 3 <= MAIN_COLUMNS
    assert curves.ensemble_near.isnan().any(), "too few rows have no mean"
