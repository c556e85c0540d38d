"""Confident samples: the student learns only from samples above a class-adaptive threshold.

Source: KD3 (Tang et al., ICCV 2023).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedkd.core.checkpoint_state import State
from fedkd.core.interfaces import BaseStudentPart, Context
from fedkd.core.schedules import Schedule
from fedkd.errors import SettingsError
from fedkd.student.class_thresholds import CEILING, class_thresholds, threshold_ratios


@dataclass(frozen=True, eq=False)
class ConfidentSamples:
    """The settings.

    Attributes:
        teacher_share: of the fused answer in what is judged, in [0, 1]; the rest is the student's.
            Follows the student's progress.
        ceiling: threshold of the most frequent class, in (0, 1].
        reverse: whether the samples below their threshold are learned instead: a control.
    """

    teacher_share: Schedule
    ceiling: float = CEILING
    reverse: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.ceiling <= 1:
            raise SettingsError(f"confident samples: ceiling {self.ceiling}; expected in (0, 1]")

    def build(self, context: Context) -> "ThresholdedSamples":
        """The part."""
        return ThresholdedSamples(self, context)


class ThresholdedSamples(BaseStudentPart):
    """Weights of a batch by which the kept samples count alike and the others not at all.

    Predicted classes are counted over as many drawn samples as there are in the bank, an epoch; the
    thresholds of the next epoch come from them.

    Args:
        settings: how samples are judged.
        context: whose bank; K.
    """

    def __init__(self, settings: ConfidentSamples, context: Context) -> None:
        self.settings, self._context = settings, context
        self._counts = torch.zeros(context.classes, dtype=torch.long)
        self._thresholds = torch.zeros(context.classes)
        self._epochs = 0

    def sample_weights(self, logits: Tensor, target: Tensor, progress: float) -> Tensor | None:
        """1 / (share that is kept) for a kept sample, 0 for others; the surest is always kept."""
        share = self.settings.teacher_share(progress)
        judged = (share * target + (1 - share) * logits.detach()).softmax(1)  # (B, K)
        self._count(judged.argmax(1).cpu())
        ratio = threshold_ratios(judged, self._thresholds.to(judged.device))
        if self.settings.reverse:
            ratio = 1 / ratio
        kept = ratio > 1
        kept[ratio.argmax()] = True
        return kept / kept.float().mean()

    def state(self) -> State:
        """Thresholds, and what was counted since."""
        tensors = {"counts": self._counts.clone(), "thresholds": self._thresholds.clone()}
        return State(tensors, {"epochs": self._epochs})

    def restore(self, state: State) -> None:
        """Be again as when ``state`` was taken."""
        self._counts = state.tensors["counts"].clone()
        self._thresholds = state.tensors["thresholds"].clone()
        self._epochs = int(state.numbers["epochs"])

    def _count(self, classes: Tensor) -> None:
        """Count (B,) predicted classes; in the first epoch thresholds follow at once."""
        self._counts += classes.bincount(minlength=len(self._counts))
        over = int(self._counts.sum()) >= len(self._context.bank)
        if over or not self._epochs:
            self._thresholds = class_thresholds(self._counts, self.settings.ceiling)
        if over:
            self._counts.zero_()
            self._epochs += 1
