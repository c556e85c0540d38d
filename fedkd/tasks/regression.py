"""Regression: K numbers, each as a share of its stated range, in [0, 1]."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkd.core.task import Loss
from fedkd.errors import SettingsError
from fedkd.evaluation import r2_score
from fedkd.protocol import Number
from fedkd.tasks.released_scores import pooled_number_scores

BINS = 10
"""Equal parts of a number's range, by which the spread of answers is measured."""
HUBER = 0.05
"""Error, as a share of the range, from which the Huber loss grows linearly."""


def squared(student: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference. (B,)."""
    return (student - target).square().mean(1)


def huber(student: Tensor, target: Tensor) -> Tensor:
    """Huber loss: squared for small errors, linear for large ones. (B,)."""
    return F.huber_loss(student, target, reduction="none", delta=HUBER).mean(1)


def quantile(student: Tensor, target: Tensor) -> Tensor:
    """Pinball loss of the median: half the absolute difference. (B,)."""
    return 0.5 * (student - target).abs().mean(1)


REGRESSION_LOSSES: dict[str, Loss] = {"squared": squared, "huber": huber, "quantile": quantile}


@dataclass(frozen=True)
class Regression:
    """The numbers that a federation predicts; see `fedkd.core.task.Task`."""

    numbers: tuple[Number, ...]
    kind = "numbers"
    main_score = "r2"

    @property
    def names(self) -> tuple[str, ...]:
        """Of the numbers, (K,)."""
        return tuple(number.name for number in self.numbers)

    @property
    def bins(self) -> int:
        """Parts of the ranges of all numbers."""
        return BINS * len(self.numbers)

    @property
    def groups(self) -> tuple[slice, ...]:
        """None: numbers share no softmax."""
        return ()

    @property
    def target_width(self) -> int:
        """K."""
        return len(self.numbers)

    def loss(self, of_method: Loss, name: str) -> Loss:
        """Squared, or the one that the settings name; the method's is for classes."""
        del of_method
        name = "squared" if name == "auto" else name
        if name not in REGRESSION_LOSSES:
            raise SettingsError(
                f"student.loss {name!r}; choose auto or one of {', '.join(REGRESSION_LOSSES)}"
            )
        return REGRESSION_LOSSES[name]

    def histogram(self, target: Tensor) -> Tensor:
        """Samples by part of each number's range, (bins,)."""
        part = (target.clamp(0.0, 1.0) * BINS).long().clamp(max=BINS - 1)
        part = part + BINS * torch.arange(len(self.numbers), device=target.device)
        return part.flatten().bincount(minlength=self.bins)

    def readable(self, outputs: Tensor) -> Tensor:
        """As they are."""
        return outputs

    def headline(self, target: Tensor) -> tuple[Tensor, Tensor]:
        """The first number."""
        return torch.zeros(len(target), dtype=torch.long), target[:, 0]

    def scores(self, outputs: Tensor, truth: Tensor) -> dict[str, float | None]:
        """Mean R^2; of one number also RMSE and MAE in its unit."""
        return {"r2": r2_score(outputs, truth), **self._errors(outputs, truth)}

    def recall(self, outputs: Tensor, truth: Tensor) -> None:
        """None: there are no classes."""
        del outputs, truth

    def agreement(self, student: Tensor, ensemble: Tensor) -> dict[str, float | None]:
        """R^2 of the student to the ensemble; of one number also RMSE and MAE in its unit."""
        scores = {"r2": r2_score(student, ensemble), **self._errors(student, ensemble)}
        return {f"{name}_to_ensemble": value for name, value in scores.items()}

    def held_back(self, student: Tensor, fused: Tensor) -> dict[str, float | None]:
        """R^2, RMSE as a share of the ranges; of one number also RMSE and MAE in its unit."""
        error = (student - fused).double().square().mean().sqrt()
        return {
            "r2": r2_score(student, fused),
            "rmse_of_range": float(error),
            **self._errors(student, fused),
        }

    def pooled(self, released: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
        """R^2 on the test rows of all; of one number also RMSE and MAE in its unit."""
        return pooled_number_scores(self.numbers, released)

    def _errors(self, outputs: Tensor, other: Tensor) -> dict[str, float]:
        """RMSE and MAE of a single number in its unit; nothing of several."""
        if len(self.numbers) > 1:
            return {}
        span = self.numbers[0].high - self.numbers[0].low
        error = (outputs - other).double()
        return {
            "rmse": span * float(error.square().mean().sqrt()),
            "mae": span * float(error.abs().mean()),
        }

    def record(self) -> Mapping[str, Any]:
        """The kind, and each number with unit and range."""
        return {"kind": self.kind, "numbers": [asdict(number) for number in self.numbers]}
