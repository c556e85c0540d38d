"""Rows of a table that a run leaves for its page, and what its student makes of the columns."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fedkd.errors import DataError
from fedkd.protocol.tables import Column
from fedkd.server.report.records.run_arrays import Arrays, take_array
from fedkd.server.report.records.run_folder import ROWS, RunFolder
from fedkd.server.report.records.sample_history import SampleHistory
from fedkd.server.report.tables.column_dependence import DependenceCurves, dependence

MAX_ROWS = 12
"""Rows that are kept, evenly from the whole run."""
_CURVES = ("student", "student_near", "ensemble_near")


@dataclass(frozen=True, eq=False)
class TableRows:
    """Content of ``rows.npz``; N rows of D columns, K outputs."""

    rows: NDArray[np.uint8]
    """(N, D)."""
    origin: NDArray[np.str_]
    """(N,), the prior or the source."""
    asked_at: NDArray[np.int64]
    """(N,), samples asked of each teacher when this one was asked about."""
    answer: NDArray[np.float32]
    """(N, K), the ensemble's: probabilities, or numbers in [0, 1] of their ranges."""
    importance: NDArray[np.float64]
    """(D,), see `fedkd.server.report.tables.column_dependence.column_importance`."""
    curves: DependenceCurves


def keep_rows(folder: RunFolder, history: SampleHistory, columns: Sequence[Column]) -> None:
    """Write rows from the whole run and the curves of the main columns for the page."""
    picked = history.evenly(MAX_ROWS)
    importance, curves = dependence(history, columns, torch.Generator().manual_seed(0))
    folder.write_arrays(
        ROWS,
        {
            "rows": history.images[picked].flatten(1).numpy(),
            "origin": history.origin[picked.numpy()],
            "asked_at": history.asked_at[picked.numpy()],
            "answer": history.task.readable(history.targets[picked]).numpy(),
            "importance": importance.numpy(),
            **{name: value.numpy() for name, value in vars(curves).items()},
        },
    )


def read_rows(arrays: Arrays, columns: int, outputs: int) -> TableRows:
    """The content of ``rows.npz``, checked.

    Raises:
        DataError: arrays are missing, or do not fit the columns and outputs of the result.
    """
    rows = take_array(arrays, "rows", (None, columns), "u").astype(np.uint8)
    main = take_array(arrays, "column", (None,), "iu")
    shown = take_array(arrays, "output", main.shape, "iu")
    at = take_array(arrays, "at", (len(main), None), "f")
    lines = {name: take_array(arrays, name, at.shape, "f") for name in _CURVES}
    for name, index, size in (("column", main, columns), ("output", shown, outputs)):
        if len(index) and not 0 <= index.min() <= index.max() < size:
            raise DataError(f"array {name} of {ROWS} names one beyond the {size} of the result")
    return TableRows(
        rows,
        take_array(arrays, "origin", (len(rows),), "U"),
        take_array(arrays, "asked_at", (len(rows),), "iu"),
        take_array(arrays, "answer", (len(rows), outputs), "f"),
        take_array(arrays, "importance", (columns,), "f"),
        DependenceCurves(
            torch.from_numpy(main),
            torch.from_numpy(shown),
            torch.from_numpy(at),
            **{name: torch.from_numpy(line) for name, line in lines.items()},
        ),
    )
