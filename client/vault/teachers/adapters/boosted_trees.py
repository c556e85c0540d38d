"""What XGBoost's, LightGBM's and CatBoost's models have in common: outputs, columns, categories."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedkd.client.vault.teachers.adapters.table_layout import Rows, TableLayout, level_values
from fedkd.errors import DataError
from fedkd.models import TableTeacher
from fedkd.protocol import Column

Score: TypeAlias = Callable[[Rows], NDArray[Any]]
"""(N, F) columns of the model -> (N,) or (N, K)."""


@dataclass(frozen=True)
class ModelColumns:
    """The columns of a model.

    Attributes:
        names: (F,) in the model's order; none: they are the schema's, in its order.
        count: F.
        categories: of columns that hold codes, by their place in the model, what each code means.
    """

    names: Sequence[str]
    count: int
    categories: dict[int, Sequence[Any]]


def boosted_teacher(
    score: Score, own: ModelColumns, layout: TableLayout, source: str
) -> TableTeacher:
    """A teacher of a booster that gives numbers, or probabilities: of two classes the second's.

    Raises:
        DataError: it reads other columns.
    """
    places = layout.places(own.names, source) if own.names else layout.all_places(own.count, source)
    codes = {
        at: _codes(layout.columns[places[at]], known, source)
        for at, known in own.categories.items()
    }

    def predict(rows: Rows) -> NDArray[Any]:
        taken = layout.numeric(rows)[:, places]
        for at, code_of in codes.items():
            taken[:, at] = code_of[rows[:, places[at]].astype(np.int64)]
        said = score(taken).reshape(len(rows), -1)
        if layout.numbers or said.shape[1] != 1 or layout.outputs != 2:
            return said
        return np.concatenate([1 - said, said], 1)

    return TableTeacher(predict, layout.columns, layout.outputs, layout.numbers)


def _codes(column: Column, known: Sequence[Any], source: str) -> NDArray[np.float64]:
    """The model's code of each level; not a number for one that it never saw."""
    if not column.levels:
        raise DataError(
            f"{source} reads {column.name!r} as categories and the schema has a range; write its "
            "levels"
        )
    code = {one: place for place, one in enumerate(known)}
    text = all(isinstance(one, str) for one in known)
    values = column.levels if text else level_values(column)
    return np.array([code.get(value, np.nan) for value in values], np.float64)
