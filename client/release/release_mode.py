"""Interface of a release mode: how a teacher's answers are released, and what they cost."""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from fedkd.protocol import Guarantee, Signal


class ReleaseMode(Protocol):
    """A teacher's answers under one release mode."""

    @property
    def signals(self) -> frozenset[Signal]:
        """Signals that may be asked for."""

    @property
    def pull_back(self) -> bool:
        """Whether gradients may be asked for."""

    @property
    def guarantee(self) -> Guarantee | None:
        """The DP guarantee of all that is ever released; None: none."""

    @property
    def cost(self) -> int:
        """Micro-rho of a sample that was not answered before; 0 where answers have no noise."""

    @property
    def name(self) -> str:
        """Name of the mode with all its settings: answers under another name are no repeats."""

    @property
    def batch_statistics(self) -> bool:
        """Whether answers by the statistics of a batch may be asked for."""

    def ask(
        self, images: Tensor, signals: frozenset[Signal], batch_statistics: bool = False
    ) -> dict[Signal, Tensor]:
        """Answers that cost no privacy; see `fedkd.models.teacher.Teacher.ask`."""

    def gradient(
        self, images: Tensor, cotangents: Mapping[Signal, Tensor], batch_statistics: bool = False
    ) -> Tensor:
        """Gradients that cost no privacy; see `fedkd.models.teacher.Teacher.pull_back`."""

    def noisy_answers(self, images: Tensor) -> Tensor:
        """Noisy answers to (B, C, H, W) images, (B, W) int64, with new noise at each call.

        To be charged before, and called once for a sample. Does not fail for any reason that
        depends on private data.
        """

    def to_logits(self, noisy: Tensor) -> Tensor:
        """Noisy answers as (B, K) float32 logits."""
