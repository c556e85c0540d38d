"""Checks of the first answers of a teacher of rows: how many, finite, probabilities or numbers."""

import logging

import numpy as np
import torch
from torch import Tensor

from fedkd.client.vault.teachers.adapters.table_layout import TableLayout
from fedkd.client.vault.teachers.teacher_spec import TeacherSpec
from fedkd.errors import DataError, FedkdError
from fedkd.models import TableTeacher, Teacher, sum_to_one
from fedkd.process.logs import log_event
from fedkd.protocol import Signal

MAX_DIFFERENCE = 1e-2
"""Of a sum of probabilities from 1, and of two answers to one row relative to the largest."""
LOGITS = frozenset({Signal.LOGITS})

log = logging.getLogger(__name__)


def check_table_answers(teacher: Teacher, spec: TeacherSpec, layout: TableLayout) -> None:
    """Ask about rows that have every level, and values from the least to the greatest.

    Numbers outside the stated range are answered as its end. A warning says how many there were.

    Raises:
        DataError: it cannot answer them, or its answers are not what the schema says.
    """
    rows = layout.probe
    try:
        said = teacher.ask(rows, LOGITS)[Signal.LOGITS]
        alone = teacher.ask(rows[:1], LOGITS)[Signal.LOGITS]
        plain = teacher.predict(rows) if isinstance(teacher, TableTeacher) else None
    except (FedkdError, MemoryError):
        raise
    except Exception as error:  # the owner's model may raise anything
        first = next(iter(str(error).splitlines()), "")
        raise DataError(
            f"{spec.source} cannot answer rows of {len(layout.columns)} columns: "
            f"{type(error).__name__}: {first}; see that columns and levels of the schema are those "
            "that it was fitted on"
        ) from error
    if said.shape != (len(rows), layout.outputs):
        raise DataError(
            f"{spec.source} answers {list(said.shape)} to {len(rows)} rows, expected "
            f"[{len(rows)}, {layout.outputs}]; see what the schema predicts"
        )
    if not bool(said.isfinite().all()) or (plain is not None and not np.isfinite(plain).all()):
        raise DataError(f"{spec.source} answers numbers that are not finite; see its training")
    largest = said.abs().max().clamp_min(1.0)
    if bool((said[:1] - alone).abs().max() > MAX_DIFFERENCE * largest):
        raise DataError(
            f"{spec.source} answers one row differently beside others; save it in evaluation mode"
        )
    if not layout.numbers:
        _check_probabilities(said, teacher, spec)
    elif plain is not None:
        _warn_of_clipping(torch.from_numpy(plain), layout)


def _check_probabilities(said: Tensor, teacher: Teacher, spec: TeacherSpec) -> None:
    """Check that what are called probabilities are some, and that others are none."""
    estimator = isinstance(teacher, TableTeacher) and not teacher.logits
    if estimator or spec.outputs == "probabilities":
        sums = said.double().exp().sum(1)
        if bool((sums - 1).abs().max() > MAX_DIFFERENCE):
            raise DataError(
                f"{spec.source} answers probabilities that add up to {sums.min():.3g} to "
                f"{sums.max():.3g}, expected 1; see what it predicts"
            )
        return
    if sum_to_one(said):
        raise DataError(
            f'{spec.source} answers probabilities; say outputs = "probabilities" under [teacher]'
        )


def _warn_of_clipping(said: Tensor, layout: TableLayout) -> None:
    for place, number in enumerate(layout.numbers):
        outside = (said[:, place] < number.low) | (said[:, place] > number.high)
        if bool(outside.any()):
            log_event(
                log,
                "numbers_clipped",
                logging.WARNING,
                number=number.name,
                rows=int(outside.sum()),
                of=len(said),
                least=float(said[:, place].min()),
                greatest=float(said[:, place].max()),
            )
