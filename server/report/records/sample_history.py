"""The samples of a finished run with their answers, from which a few are kept for the page."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedkd.core.bank import Bank
from fedkd.core.task import Task


@dataclass(frozen=True, eq=False)
class SampleHistory:
    """All samples of the bank, oldest first, and the student that learned from them."""

    images: Tensor
    """(N, C, H, W) uint8."""
    targets: Tensor
    """(N, K) fused answers."""
    origin: NDArray[np.str_]
    """(N,), the prior or the source."""
    asked_at: NDArray[np.int64]
    """(N,), samples asked of each teacher when this one was asked about."""
    student: nn.Module
    task: Task

    def evenly(self, most: int) -> Tensor:
        """Indices of at most ``most`` samples, evenly from the whole run."""
        count = len(self.images)
        return torch.from_numpy(
            np.unique(np.linspace(0, count - 1, min(most, count)).astype(np.int64))
        )


def sample_history(
    bank: Bank,
    asked: Sequence[tuple[int, int, str]],
    student: nn.Module,
    task: Task,
) -> SampleHistory:
    """Samples of the whole run, as far as the bank has kept them.

    Args:
        bank: all samples that were asked about, in order (the last ones if it is bounded).
        asked: for each question the samples asked so far, its samples and their origin.
        student: after its last step.
        task: what the answers are.
    """
    at = np.concatenate([np.full(count, so_far) for so_far, count, _ in asked])[-len(bank) :]
    origin = np.concatenate([np.full(n, name, dtype="U32") for _, n, name in asked])[-len(bank) :]
    images, targets = bank.history()
    return SampleHistory(images.cpu(), targets.cpu(), origin, at, student, task)
