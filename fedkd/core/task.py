"""Interface of a task: what teachers predict: classes, numbers, several tasks, an embedding."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from torch import Tensor

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""((B, K) student outputs, (B, K) targets) -> (B,) distillation loss of each sample."""
Score: TypeAlias = float | Mapping[str, float | None] | None
"""A score, or one by name of task; None where it is not known."""


class Task(Protocol):
    """What the K outputs of teachers and student are; see `fedkd.tasks`."""

    @property
    def kind(self) -> str:
        """``classes``, ``numbers``, ``tasks`` or ``embedding``."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the outputs, (K,)."""

    @property
    def bins(self) -> int:
        """Entries of `histogram`."""

    @property
    def main_score(self) -> str:
        """Name of the score by which a student is judged."""

    @property
    def target_width(self) -> int:
        """Columns of a target: K, or of embeddings those of all teachers."""

    @property
    def groups(self) -> tuple[slice, ...]:
        """Outputs that share a softmax, for each task; of numbers and embeddings none."""

    def loss(self, of_method: Loss, name: str) -> Loss:
        """The student's loss.

        Args:
            of_method: the loss of the method, which is for classes.
            name: that the settings give; "auto" for the task's own choice.

        Raises:
            SettingsError: no such loss for this task.
        """

    def histogram(self, target: Tensor) -> Tensor:
        """How targets (B, K) spread over classes or ranges: (bins,) counts."""

    def readable(self, outputs: Tensor) -> Tensor:
        """(B, K) outputs -> (B, K) probabilities, or numbers in [0, 1]."""

    def headline(self, target: Tensor) -> tuple[Tensor, Tensor]:
        """Of targets (B, K), for pictures: (B,) index of the leading output and (B,) its value.

        The value is a probability, or a number in [0, 1] of its range.
        """

    def scores(self, outputs: Tensor, truth: Tensor) -> Mapping[str, Score]:
        """Scores of outputs (N, K) against the truth.

        The truth is (N,) classes, (N, K) numbers, or (N, M) the class of each task.
        """

    def recall(self, outputs: Tensor, truth: Tensor) -> Mapping[str, float | None] | None:
        """Recall of each class by the name of its output; None: there are no classes."""

    def agreement(self, student: Tensor, ensemble: Tensor) -> Mapping[str, Score]:
        """Scores of the student's outputs (N, K) against the ensemble's."""

    def held_back(self, student: Tensor, fused: Tensor) -> Mapping[str, Score]:
        """Scores of the student's outputs (N, K) against fused answers that it never learned."""

    def pooled(self, released: Sequence[Mapping[str, Any]]) -> Mapping[str, Score]:
        """Scores of a student on all test samples, of what institutions released.

        Args:
            released: see `fedkd.tasks.released_scores`; what is none of this task is left out.
        """

    def record(self) -> Mapping[str, Any]:
        """What stands in ``result.json``: the kind, and units and ranges of numbers, tasks."""
