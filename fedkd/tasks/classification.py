"""Classification: one of K classes; outputs are logits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fedkd.core.task import Loss
from fedkd.errors import SettingsError
from fedkd.evaluation import (
    accuracy,
    agreement,
    auroc,
    balanced_accuracy,
    expected_calibration_error,
    fidelity,
    fidelity_double_root,
    kl_divergence,
    recall,
    soft_calibration_error,
)
from fedkd.tasks.released_scores import pooled_accuracy


@dataclass(frozen=True)
class Classification:
    """The classes of a federation; see `fedkd.core.task.Task`."""

    names: tuple[str, ...]
    kind = "classes"
    main_score = "accuracy"

    @property
    def bins(self) -> int:
        """K."""
        return len(self.names)

    @property
    def groups(self) -> tuple[slice, ...]:
        """All."""
        return (slice(0, len(self.names)),)

    @property
    def target_width(self) -> int:
        """K."""
        return len(self.names)

    def loss(self, of_method: Loss, name: str) -> Loss:
        """The method's own."""
        if name != "auto":
            raise SettingsError(
                f"student.loss {name!r} is for numbers, and these teachers predict classes; leave "
                "it at auto, and set the method's loss under [method]"
            )
        return of_method

    def histogram(self, target: Tensor) -> Tensor:
        """Samples by their likeliest class, (K,)."""
        return target.argmax(1).bincount(minlength=self.bins)

    def readable(self, outputs: Tensor) -> Tensor:
        """Probabilities."""
        return outputs.softmax(1)

    def headline(self, target: Tensor) -> tuple[Tensor, Tensor]:
        """The likeliest class and its probability."""
        confidence, label = target.softmax(1).max(1)
        return label, confidence

    def scores(self, outputs: Tensor, truth: Tensor) -> dict[str, float | None]:
        """Accuracy, balanced accuracy, AUROC and expected calibration error."""
        return {
            "accuracy": accuracy(outputs, truth),
            "balanced_accuracy": balanced_accuracy(outputs, truth),
            "auroc": auroc(outputs, truth),
            "ece": expected_calibration_error(outputs, truth),
        }

    def recall(self, outputs: Tensor, truth: Tensor) -> dict[str, float | None]:
        """By name of class."""
        return dict(zip(self.names, recall(outputs, truth), strict=True))

    def agreement(self, student: Tensor, ensemble: Tensor) -> dict[str, float | None]:
        """Share of equal decisions, and fidelity of probabilities."""
        return {
            "agreement": agreement(student, ensemble),
            "fidelity": fidelity(student, ensemble),
            "fidelity_double_root": fidelity_double_root(student, ensemble),
        }

    def held_back(self, student: Tensor, fused: Tensor) -> dict[str, float | None]:
        """Equal decisions, mean KL(fused || student) in nats, fidelity, and calibration.

        Of calibration the fused probability of the student's class stands for the truth, so it says
        whether the student is as sure as the institutions are together.
        """
        return {
            "agreement": agreement(student, fused),
            "kl": kl_divergence(student, fused),
            "fidelity": fidelity(student, fused),
            "ece": soft_calibration_error(student, fused),
        }

    def pooled(self, released: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
        """Accuracy on the test samples of all."""
        return pooled_accuracy(released)

    def record(self) -> Mapping[str, Any]:
        """The kind alone; names of classes stand beside it."""
        return {"kind": self.kind}
