"""From easy to hard: difficulty becomes a weight, progress becomes a pace and a hardness.

Knows numbers only: neither teachers nor students, nor how difficulty was measured.

Self-paced learning (Kumar et al., NeurIPS 2010), with the logistic regulariser that CuDFKD uses:
minimising ``v l + g(v; pace)`` over a sample's weight ``v`` gives v in closed form for each kind.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from fedkd.errors import SettingsError

Schedule: TypeAlias = Callable[[float], float]
"""Progress of the run in [0, 1] -> a value >= 0."""

Kind = Literal["log", "soft", "hard", "none"]


def constant(value: float) -> Schedule:
    """The same at all times."""
    return lambda progress: value


def ramp(start: float, stop: float, begin: float = 0.25, end: float = 0.75) -> Schedule:
    """``start`` until ``begin``, then linearly to ``stop`` at ``end``, then constant.

    The form in which CuDFKD hardens its generator; progress is a share of the run.
    """

    def value(progress: float) -> float:
        share = (progress - begin) / (end - begin) if end > begin else float(progress >= end)
        return start + (stop - start) * min(max(share, 0.0), 1.0)

    return value


@dataclass(frozen=True)
class Curriculum:
    """Weights of samples in the student's loss.

    kind ``log``:   v = (1 + e^-pace) / (1 + e^(l - pace))
    kind ``soft``:  v = max(0, 1 - l / pace)
    kind ``hard``:  v = 1 if l < pace else 0
    kind ``none``:  v = 1

    Args:
        kind: the regulariser.
        start: pace before the first step, > 0; in units of the student's loss per sample.
        stop: pace at the end, >= start. The paper states an increment per step (1e-4 over 100,000
            steps); runs here differ in length by orders of magnitude, so the end is what is fixed.
        whole_batch: weigh the batch by its mean difficulty, one scalar, as the last published code
            does; then the curriculum only scales the learning rate.
    """

    kind: Kind = "log"
    start: float = 2.0
    stop: float = 12.0
    whole_batch: bool = False

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise SettingsError(
                f"curriculum kind {self.kind!r}; choose one of {', '.join(get_args(Kind))}"
            )
        if not 0 < self.start <= self.stop:
            raise SettingsError(f"expected 0 < start <= stop, got {self.start} and {self.stop}")

    def pace(self, progress: float) -> float:
        """How hard a sample may be, from ``start`` to ``stop``."""
        return self.start + (self.stop - self.start) * progress

    def weights(self, difficulty: Tensor, progress: float) -> Tensor:
        """(B,) losses -> (B,) weights in [0, 1]; no gradient passes."""
        loss = difficulty.detach()
        if self.whole_batch:
            loss = loss.mean().expand_as(loss)
        pace = self.pace(progress)
        match self.kind:
            case "log":
                # (1 + e^-pace) / (1 + e^(l - pace)), without overflow for a large l.
                return torch.sigmoid(pace - loss) * (1.0 + torch.exp(torch.tensor(-pace)))
            case "soft":
                return (1.0 - loss / pace).clamp_min(0.0)
            case "hard":
                return (loss < pace).to(loss.dtype)
            case "none":
                return torch.ones_like(loss)


UNIFORM = Curriculum("none")
