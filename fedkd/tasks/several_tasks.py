"""Several tasks: attributes of a sample, each with classes of its own; outputs are logits.

The student has one head for each task, side by side: one softmax for each, and no loss across. A
target is NaN in a task, or in a class of one, of which nobody said anything.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from fedkd.core.task import Loss, Score
from fedkd.errors import SettingsError
from fedkd.evaluation import (
    accuracy,
    agreement,
    expected_calibration_error,
    fidelity,
    kl_divergence,
    recall,
    soft_calibration_error,
)
from fedkd.protocol import NamedTask, output_names_of, task_slices
from fedkd.tasks.released_scores import pooled_task_accuracies

Measure = Callable[[Tensor, Tensor], float | None]
"""(N, K) logits and what they are compared with -> a score."""


@dataclass(frozen=True)
class SeveralTasks:
    """The tasks of a federation; see `fedkd.core.task.Task`."""

    tasks: tuple[NamedTask, ...]
    kind = "tasks"
    main_score = "all_tasks_accuracy"

    @property
    def names(self) -> tuple[str, ...]:
        """``task: class`` of each output, (K,)."""
        return output_names_of(self.tasks)

    @property
    def bins(self) -> int:
        """K."""
        return len(self.names)

    @property
    def groups(self) -> tuple[slice, ...]:
        """Outputs of each task."""
        return tuple(task_slices(self.tasks).values())

    @property
    def target_width(self) -> int:
        """K."""
        return len(self.names)

    def loss(self, of_method: Loss, name: str) -> Loss:
        """The method's own for each task, summed."""
        groups = self.groups
        if name != "auto":
            raise SettingsError(
                f"student.loss {name!r} is for numbers, and these teachers predict classes; leave "
                "it at auto, and set the method's loss under [method]"
            )

        def loss(student: Tensor, target: Tensor) -> Tensor:
            each = [_known_loss(of_method, student[:, at], target[:, at]) for at in groups]
            return torch.stack(each).sum(0)

        return loss

    def histogram(self, target: Tensor) -> Tensor:
        """Samples by their likeliest class of each task, (K,)."""
        each = []
        for at in self.groups:
            own = target[:, at]
            known = own[~own.isnan().any(1)]
            each.append(known.argmax(1).bincount(minlength=own.shape[1]))
        return torch.cat(each)

    def readable(self, outputs: Tensor) -> Tensor:
        """Probabilities of each task's classes; 0 in a task that nobody answered."""
        each = [outputs[:, at].softmax(1) for at in self.groups]
        return torch.cat(each, 1).nan_to_num(0.0)

    def headline(self, target: Tensor) -> tuple[Tensor, Tensor]:
        """The output of the task that is surest, and its probability."""
        confidence, label = self.readable(target).max(1)
        return label, confidence

    def scores(self, outputs: Tensor, truth: Tensor) -> dict[str, Score]:
        """Share of samples of which all tasks are right, accuracies, and calibration error.

        Args:
            outputs: (N, K) logits; of a task that a teacher lacks NaN.
            truth: (N, M) class of each task.
        """
        answered = self._answered(outputs)
        columns = {task.name: place for place, task in enumerate(self.tasks)}
        right = {n: own.argmax(1) == truth[:, columns[n]] for n, own in answered.items()}
        together = None
        if len(answered) == len(self.tasks):
            together = float(torch.stack(list(right.values())).all(0).float().mean())
        each = {name: accuracy(own, truth[:, columns[name]]) for name, own in answered.items()}
        ece = {
            name: expected_calibration_error(own, truth[:, columns[name]])
            for name, own in answered.items()
        }
        return {
            "all_tasks_accuracy": together,
            "accuracy": _mean(each),
            "ece": _mean(ece),
            "task_accuracy": self._by_task(each),
        }

    def recall(self, outputs: Tensor, truth: Tensor) -> dict[str, float | None]:
        """By name of output."""
        found: dict[str, float | None] = {}
        for place, (task, at) in enumerate(zip(self.tasks, self.groups, strict=True)):
            each = recall(outputs[:, at], truth[:, place])
            found.update(zip(task.output_names, each, strict=True))
        return found

    def agreement(self, student: Tensor, ensemble: Tensor) -> dict[str, Score]:
        """Share of samples of which all decisions are equal; fidelity, the mean over tasks."""
        both = self._both(student, ensemble)
        return {
            "agreement": _all_equal(both),
            "fidelity": _mean({name: fidelity(*pair) for name, pair in both.items()}),
            "task_agreement": self._by_task({n: agreement(*pair) for n, pair in both.items()}),
        }

    def held_back(self, student: Tensor, fused: Tensor) -> dict[str, Score]:
        """Share of samples of which all decisions are equal; KL in nats, summed over tasks.

        Fidelity and calibration error are means over tasks. Of a task that nobody answered there
        is nothing to compare.
        """
        both = self._both(student, fused)

        def mean(measure: Measure) -> float | None:
            return _mean({name: measure(*pair) for name, pair in both.items()})

        return {
            "agreement": _all_equal(both),
            "kl": sum(kl_divergence(*pair) for pair in both.values()) if both else None,
            "fidelity": mean(fidelity),
            "ece": mean(soft_calibration_error),
            "task_agreement": self._by_task({n: agreement(*pair) for n, pair in both.items()}),
        }

    def pooled(self, released: Sequence[Mapping[str, Any]]) -> dict[str, Score]:
        """Accuracies on the test samples of all; all together where each labels all tasks."""
        return pooled_task_accuracies([task.name for task in self.tasks], released)

    def record(self) -> Mapping[str, Any]:
        """The kind, and each task with its classes."""
        return {"kind": self.kind, "tasks": [asdict(task) for task in self.tasks]}

    def _answered(self, outputs: Tensor) -> dict[str, Tensor]:
        """Outputs (N, K_m) by task, of those tasks that were answered for every sample."""
        split = {
            task.name: outputs[:, at] for task, at in zip(self.tasks, self.groups, strict=True)
        }
        return {name: own for name, own in split.items() if not bool(own.isnan().any())}

    def _both(self, student: Tensor, other: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """By task, both outputs for the samples of which all that are compared are known."""
        known = [at for at in self.groups if not bool(other[:, at].isnan().all())]
        rows = torch.ones(len(other), dtype=torch.bool)
        for at in known:
            rows &= ~other[:, at].isnan().any(1)
        return {
            task.name: (student[rows][:, at], other[rows][:, at])
            for task, at in zip(self.tasks, self.groups, strict=True)
            if at in known and bool(rows.any())
        }

    def _by_task(self, known: Mapping[str, float | None]) -> dict[str, float | None]:
        return {task.name: known.get(task.name) for task in self.tasks}


def _known_loss(loss: Loss, student: Tensor, target: Tensor) -> Tensor:
    """The loss of one task, (B,); 0 where nobody answered, without classes that nobody knows."""
    unknown = target.isnan()
    if not bool(unknown.any()):
        return loss(student, target)
    classes = ~unknown.all(0)
    rows = ~unknown[:, classes].any(1) & classes.any()
    found = student.new_zeros(len(student))
    if bool(rows.any()):
        found[rows] = loss(student[rows][:, classes], target[rows][:, classes])
    return found


def _mean(each: Mapping[str, float | None]) -> float | None:
    known = [value for value in each.values() if value is not None]
    return statistics.fmean(known) if known else None


def _all_equal(both: Mapping[str, tuple[Tensor, Tensor]]) -> float | None:
    if not both:
        return None
    equal = [own.argmax(1) == other.argmax(1) for own, other in both.values()]
    return float(torch.stack(equal).all(0).float().mean())
