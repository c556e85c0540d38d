"""Teachers that read rows of a table: a fitted estimator of classes or numbers, no gradient."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedkd.errors import NeedsError
from fedkd.models.teacher import MIN_PROBABILITY, require_signals
from fedkd.protocol import Column, Number, Signal, decode_rows, encode_numbers

CHUNK = 8192
"""Rows in one call of an estimator."""

Predict: TypeAlias = Callable[[NDArray[np.float64]], NDArray[Any]]
"""Rows (N, D) in their own units, levels by their index -> (N, K) probabilities, or numbers."""


class TableTeacher:
    """An estimator as a teacher: LOGITS only.

    Of classes they are logarithms of probabilities; numbers are shares of their range, clipped.

    Args:
        predict: the estimator's.
        columns: (D,) of the rows.
        outputs: K.
        numbers: (K,) that it predicts; none: it predicts probabilities of classes.
    """

    differentiable = False
    signals = frozenset({Signal.LOGITS})

    def __init__(
        self,
        predict: Predict,
        columns: Sequence[Column],
        outputs: int,
        numbers: Sequence[Number] = (),
    ) -> None:
        self.classes = outputs
        self._predict, self._columns, self._numbers = predict, tuple(columns), tuple(numbers)

    def ask(self, images: Tensor, signals: frozenset[Signal]) -> dict[Signal, Tensor]:
        """See `fedkd.models.Teacher.ask`."""
        require_signals(signals, self.signals)
        rows = decode_rows(images, self._columns).numpy()
        pieces = [self._predict(rows[at : at + CHUNK]) for at in range(0, len(rows), CHUNK)]
        answers = np.concatenate(pieces).astype(np.float64).reshape(len(rows), self.classes)
        if self._numbers:
            logits = encode_numbers(torch.from_numpy(answers), self._numbers)
        else:
            logits = torch.from_numpy(np.log(np.maximum(answers, MIN_PROBABILITY))).float()
        return dict.fromkeys(signals, logits)

    def pull_back(self, images: Tensor, cotangents: Mapping[Signal, Tensor]) -> Tensor:
        """Always raises.

        Raises:
            NeedsError: it has no gradient.
        """
        raise NeedsError("this teacher has no gradient; choose a method that pulls nothing back")


def probabilities_of(model: Any, classes: int) -> Predict:
    """The probabilities of a fitted classifier; a class that it never saw has none.

    Args:
        model: has ``predict_proba``, and ``classes_`` whole numbers below ``classes``.
        classes: K.
    """

    def predict(rows: NDArray[np.float64]) -> NDArray[Any]:
        probabilities = np.zeros((len(rows), classes))
        probabilities[:, np.asarray(model.classes_, np.int64)] = model.predict_proba(rows)
        return probabilities

    return predict
