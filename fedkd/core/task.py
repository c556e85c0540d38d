"""Interface of a task: what teachers predict, classes or numbers; see `fedkd.tasks`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from torch import Tensor

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""((B, K) student outputs, (B, K) targets) -> (B,) distillation loss of each sample."""


class Task(Protocol):
    """What the K outputs of teachers and student are."""

    @property
    def kind(self) -> str:
        """``classes`` or ``numbers``."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the outputs, (K,)."""

    @property
    def bins(self) -> int:
        """Entries of `histogram`."""

    @property
    def main_score(self) -> str:
        """Name of the score by which a student is judged: ``accuracy`` or ``r2``."""

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

    def headline(self, target: Tensor) -> tuple[Tensor, Tensor]:
        """Of targets (B, K), for pictures: (B,) index of the leading output and (B,) its value.

        The value is a probability, or a number in [0, 1] of its range.
        """

    def scores(self, outputs: Tensor, truth: Tensor) -> dict[str, float | None]:
        """Scores of outputs (N, K) against the truth: (N,) classes, or (N, K) numbers."""

    def agreement(self, student: Tensor, ensemble: Tensor) -> dict[str, float | None]:
        """Scores of the student's outputs (N, K) against the ensemble's."""

    def held_back(self, student: Tensor, fused: Tensor) -> dict[str, float | None]:
        """Scores of the student's outputs (N, K) against fused answers that it never learned."""

    def pooled(self, released: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
        """Scores of a student on all test samples, of what institutions released.

        Args:
            released: see `fedkd.tasks.released_scores`; what is none of this task is left out.
        """

    def record(self) -> Mapping[str, Any]:
        """What stands in ``result.json``: the kind, and units and ranges of numbers."""
