"""Embedding: D numbers a sample, of which only the cosines between samples mean something."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedkd.core.task import Loss
from fedkd.errors import SettingsError
from fedkd.evaluation import recall_among, relation_correlation, relation_error
from fedkd.protocol import cosine_relations
from fedkd.tasks.released_scores import ACCURACY, pooled_accuracy

BINS = 20
"""Equal parts of [-1, 1], by which the spread of relations is measured."""


@dataclass(frozen=True)
class Embedding:
    """The embedding that a federation is taught; see `fedkd.core.task.Task`."""

    width: int
    """D of the student: the widest teacher's."""
    target_width: int
    """Columns of a target: those of all teachers."""
    kind = "embedding"
    main_score = "recall_at_1"

    @property
    def names(self) -> tuple[str, ...]:
        """Of the student's D outputs: their numbers."""
        return tuple(map(str, range(self.width)))

    @property
    def groups(self) -> tuple[slice, ...]:
        """None: no softmax."""
        return ()

    @property
    def bins(self) -> int:
        """Parts of [-1, 1]."""
        return BINS

    def loss(self, of_method: Loss, name: str) -> Loss:
        """The method's own."""
        if name != "auto":
            raise SettingsError(
                f"student.loss {name!r} is for numbers, and these teachers output an embedding; "
                "leave it at auto, and set method.loss"
            )
        return of_method

    def histogram(self, target: Tensor) -> Tensor:
        """Pairs of the batch by their relation, (bins,)."""
        upper = torch.triu_indices(len(target), len(target), 1, device=target.device)
        relations = cosine_relations(target.float())[upper[0], upper[1]].clamp(-1.0, 1.0)
        part = ((relations + 1) / 2 * BINS).long().clamp(max=BINS - 1)
        return part.bincount(minlength=BINS)

    def readable(self, outputs: Tensor) -> Tensor:
        """As they are."""
        return outputs

    def headline(self, target: Tensor) -> tuple[Tensor, Tensor]:
        """Zeros: a sample alone says nothing."""
        return torch.zeros(len(target), dtype=torch.long), torch.zeros(len(target))

    def scores(self, outputs: Tensor, truth: Tensor) -> dict[str, float | None]:
        """Recall at 1 and 5 among these samples."""
        return recall_among(outputs, truth)

    def recall(self, outputs: Tensor, truth: Tensor) -> None:
        """There are no classes."""

    def agreement(self, student: Tensor, ensemble: Tensor) -> dict[str, float | None]:
        """Correlation of relations."""
        return {"relation_correlation": _compared(student, ensemble)["relation_correlation"]}

    def held_back(self, student: Tensor, fused: Tensor) -> dict[str, float | None]:
        """Correlation and root mean squared difference of relations, of one question."""
        return _compared(student, fused)

    def pooled(self, released: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
        """Recall at 1 on the test samples of all, each searched among its owner's."""
        return {"recall_at_1": pooled_accuracy(released)[ACCURACY]}

    def record(self) -> Mapping[str, Any]:
        """The kind, and the student's width."""
        return {"kind": self.kind, "width": self.width}


def _compared(student: Tensor, taught: Tensor) -> dict[str, float | None]:
    own, other = cosine_relations(student.float()), cosine_relations(taught.float())
    return {
        "relation_correlation": relation_correlation(own, other),
        "relation_error": relation_error(own, other),
    }
