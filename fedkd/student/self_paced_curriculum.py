"""Self-paced curriculum: weights of samples in the student's loss, by their difficulty.

Self-paced learning (Kumar et al., NeurIPS 2010), with the logistic regulariser that CuDFKD uses:
minimising ``v l + g(v; lambda)`` over a sample's weight ``v`` gives v in closed form for each kind.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from fedkd.errors import SettingsError

Kind = Literal["log", "soft", "hard", "none"]


@dataclass(frozen=True)
class Curriculum:
    """Weights of samples in the student's loss.

    kind ``log``:   v = (1 + e^-lambda) / (1 + e^(l - lambda))
    kind ``soft``:  v = max(0, 1 - l / lambda)
    kind ``hard``:  v = 1 if l < lambda else 0
    kind ``none``:  v = 1

    Args:
        kind: the regulariser.
        start: lambda before the first step, > 0; in units of the student's loss per sample.
        stop: lambda at the end, >= start. The paper states an increment per step (1e-4 over 100,000
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

    @property
    def weighs(self) -> bool:
        """Whether there is a curriculum: samples may have other weights than 1."""
        return self.kind != "none"

    def lambda_at(self, progress: float) -> float:
        """How hard a sample may be, from ``start`` to ``stop``."""
        return self.start + (self.stop - self.start) * progress

    def weights(self, losses: Tensor, progress: float) -> Tensor:
        """(B,) losses -> (B,) weights in [0, 1]; no gradient passes."""
        loss = losses.detach()
        if self.whole_batch:
            loss = loss.mean().expand_as(loss)
        lambda_ = self.lambda_at(progress)
        match self.kind:
            case "log":
                # (1 + e^-lambda) / (1 + e^(l - lambda)), without overflow for a large l.
                return torch.sigmoid(lambda_ - loss) * (1.0 + torch.exp(torch.tensor(-lambda_)))
            case "soft":
                return (1.0 - loss / lambda_).clamp_min(0.0)
            case "hard":
                return (loss < lambda_).to(loss.dtype)
            case "none":
                return torch.ones_like(loss)


UNIFORM = Curriculum("none")
