"""What the door expects of a way to release answers. Knows no teacher, no network and no books."""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from fedkd.protocol import Guarantee, Signal


class ReleaseMode(Protocol):
    """A teacher's answers under one mode."""

    @property
    def signals(self) -> frozenset[Signal]:
        """What may be asked for."""

    @property
    def pull_back(self) -> bool:
        """Whether gradients may be asked for."""

    @property
    def guarantee(self) -> Guarantee | None:
        """What is promised of all that is ever told; None: nothing."""

    @property
    def cost(self) -> int:
        """Micro-rho of an image that was not answered before; 0 where answers have no noise."""

    @property
    def name(self) -> str:
        """Of the mode and all its settings: what another one answered is no answer of this one."""

    def ask(self, images: Tensor, signals: frozenset[Signal]) -> dict[Signal, Tensor]:
        """What may be told without a charge: see `fedkd.models.teacher.Teacher.ask`."""

    def pulled_back(self, images: Tensor, cotangents: Mapping[Signal, Tensor]) -> Tensor:
        """Gradients, likewise."""

    def draw(self, images: Tensor) -> Tensor:
        """NoisyRelease answers to (B, C, H, W) images, (B, W) int64, drawn anew at each call.

        To be charged before, and called once for an image. Does not fail for any reason that
        depends on private data.
        """

    def say(self, drawn: Tensor) -> Tensor:
        """What was drawn, as (B, K) float32 logits."""
