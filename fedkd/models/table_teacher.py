"""Teachers that read rows of a table: fitted estimators without gradients, and networks."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedkd.errors import DataError, NeedsError
from fedkd.models.teacher import MIN_PROBABILITY, Teacher, require_signals
from fedkd.protocol import Column, Number, Signal, decode_rows, encode_numbers

CHUNK = 8192
"""Rows in one call of an estimator."""

Predict: TypeAlias = Callable[[NDArray[np.float64]], NDArray[Any]]
"""Rows (N, D) in their own units, levels by their index -> (N, K) scores of classes, or numbers."""


class TableTeacher:
    """An estimator as a teacher: LOGITS only.

    Of classes they are logarithms of probabilities; numbers are shares of their range, clipped.

    Args:
        predict: the estimator's.
        columns: (D,) of the rows.
        outputs: K.
        numbers: (K,) that it predicts; none: it predicts probabilities of classes.
        logits: whether its scores of classes are logits already.
    """

    signals = frozenset({Signal.LOGITS})

    def __init__(
        self,
        predict: Predict,
        columns: Sequence[Column],
        outputs: int,
        numbers: Sequence[Number] = (),
        *,
        logits: bool = False,
    ) -> None:
        self.classes, self.logits = outputs, logits
        self._predict, self._columns, self._numbers = predict, tuple(columns), tuple(numbers)

    @property
    def differentiable(self) -> bool:
        """False: an estimator has no gradient."""
        return False

    def predict(self, samples: Tensor) -> NDArray[np.float64]:
        """What the model says, (N, K): scores of classes, or numbers in their units, not clipped.

        Args:
            samples: (N, 1, 1, D), uint8 or float in [0, 1].

        Raises:
            DataError: it says another number of outputs.
        """
        rows = decode_rows(samples, self._columns).numpy()
        pieces = [self._predict(rows[at : at + CHUNK]) for at in range(0, len(rows), CHUNK)]
        answers = np.concatenate(pieces).astype(np.float64).reshape(len(rows), -1)
        if answers.shape[1] != self.classes:
            raise DataError(
                f"the teacher answers {answers.shape[1]} outputs to a row, expected "
                f"{self.classes}; see what the schema predicts"
            )
        return answers

    def ask(self, images: Tensor, signals: frozenset[Signal]) -> dict[Signal, Tensor]:
        """See `fedkd.models.Teacher.ask`."""
        require_signals(signals, self.signals)
        answers = self.predict(images)
        if self._numbers:
            logits = encode_numbers(torch.from_numpy(answers), self._numbers)
        elif self.logits:
            logits = torch.from_numpy(answers).float()
        else:
            logits = torch.from_numpy(np.log(np.maximum(answers, MIN_PROBABILITY))).float()
        return dict.fromkeys(signals, logits)

    def pull_back(self, images: Tensor, cotangents: Mapping[Signal, Tensor]) -> Tensor:
        """Always raises.

        Raises:
            NeedsError: it has no gradient.
        """
        raise NeedsError("this teacher has no gradient; choose a method that pulls nothing back")


class RowNetworkTeacher(TableTeacher):
    """A teacher that reads rows in their own units as images of (1, 1, D), perhaps with gradients.

    Args:
        inner: (N, 1, 1, D) float32 in their own units -> logits, or numbers in their units.
        numeric: rows with levels by their index -> rows as ``inner`` was trained on.
        columns: (D,) of the rows.
        numbers: (K,) that it predicts; none: classes.
    """

    def __init__(
        self,
        inner: Teacher,
        numeric: Predict,
        columns: Sequence[Column],
        numbers: Sequence[Number] = (),
    ) -> None:
        super().__init__(self._answers, columns, inner.classes, numbers, logits=True)
        self._inner, self._numeric = inner, numeric

    @property
    def differentiable(self) -> bool:
        """Whether the inner teacher is."""
        return self._inner.differentiable

    def pull_back(self, images: Tensor, cotangents: Mapping[Signal, Tensor]) -> Tensor:
        """See `fedkd.models.Teacher.pull_back`. By a column with levels the gradient is 0."""
        require_signals(frozenset(cotangents), self.signals)
        rows = self._images(decode_rows(images, self._columns).numpy())
        cotangent = cotangents[Signal.LOGITS]
        if self._numbers:
            said = self._inner.ask(rows, self.signals)[Signal.LOGITS]
            low = torch.tensor([number.low for number in self._numbers])
            high = torch.tensor([number.high for number in self._numbers])
            within = (said >= low) & (said <= high)
            cotangent = torch.where(within, cotangent / (high - low), torch.zeros(()))
        gradient = self._inner.pull_back(rows, {Signal.LOGITS: cotangent})
        spans = [0.0 if column.levels else column.high - column.low for column in self._columns]
        return gradient * torch.tensor(spans)

    def _answers(self, rows: NDArray[np.float64]) -> NDArray[Any]:
        said: NDArray[Any] = self._inner.ask(self._images(rows), self.signals)[
            Signal.LOGITS
        ].numpy()
        return said

    def _images(self, rows: NDArray[np.float64]) -> Tensor:
        return torch.from_numpy(self._numeric(rows)).float()[:, None, None, :]


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
