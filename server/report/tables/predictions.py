"""Predictions that a run leaves for its page: numbers against the truth, calibration of classes."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedkd.evaluation import predict_logits
from fedkd.server.report.records.run_folder import PREDICTIONS, RunFolder
from fedkd.server.report.records.sample_history import SampleHistory

MAX_POINTS = 800
"""Predictions that are kept of each number."""
BINS = 15
"""Equal bins of confidence, as many as `fedkd.evaluation.expected_calibration_error` has."""


@dataclass(frozen=True, eq=False)
class TestOutputs:
    """What an engine with test data knows of N test samples."""

    __test__ = False  # no test, though its name begins so

    student: Tensor
    """(N, K) outputs."""
    ensemble: Tensor
    """(N, K) fused answers."""
    truth: Tensor
    """(N,) classes or (N, K) numbers, in the order of the outputs."""


def keep_numbers(
    folder: RunFolder, history: SampleHistory | None, test: TestOutputs | None
) -> None:
    """Write predictions of student and ensemble, with the truth where there is test data.

    Without test data they are of banked rows, on which the student was trained.
    """
    if test is not None:
        picked = torch.linspace(0, len(test.truth) - 1, min(MAX_POINTS, len(test.truth))).long()
        arrays = {name: getattr(test, name)[picked] for name in ("student", "ensemble", "truth")}
    elif history is not None:
        picked = history.evenly(MAX_POINTS)
        student = predict_logits(history.student, history.images[picked])
        arrays = {"student": student, "ensemble": history.targets[picked]}
    else:
        return
    folder.write_arrays(PREDICTIONS, {n: each.float().numpy() for n, each in arrays.items()})


def keep_calibration(
    folder: RunFolder, history: SampleHistory | None, test: TestOutputs | None
) -> None:
    """Write the calibration of student and ensemble on test data; nothing without any."""
    del history  # of invented samples nobody knows the truth
    if test is not None:
        both = {"student": test.student, "ensemble": test.ensemble}
        arrays = {name: calibration(logits, test.truth).numpy() for name, logits in both.items()}
        folder.write_arrays(PREDICTIONS, arrays)


def calibration(logits: Tensor, labels: Tensor) -> Tensor:
    """Bins of confidence, from (N, K) logits and (N,) labels.

    Returns:
        (3, `BINS`): number of samples, mean confidence and accuracy; NaN in empty bins.
    """
    confidence, decision = logits.double().softmax(1).max(1)
    place = (confidence * BINS).long().clamp(max=BINS - 1)
    count = place.bincount(minlength=BINS).double()
    sums = torch.zeros(2, BINS, dtype=torch.float64)
    sums[0].index_add_(0, place, confidence)
    sums[1].index_add_(0, place, (decision == labels).double())
    return torch.stack([count, *(sums / count)])


def expected_error(bins: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> float:
    """Expected calibration error of (3, `BINS`), see `calibration`."""
    filled = bins[:, bins[0] > 0]
    count, confidence, accuracy = filled
    return float((count * np.abs(accuracy - confidence)).sum() / count.sum())
