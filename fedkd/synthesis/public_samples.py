"""Public samples as a source: the coordinator's own, asked about first, once each.

They are nobody's secret: none of them is an institution's.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedkd.core.bank import Bank
from fedkd.core.checkpoint_state import State
from fedkd.core.interfaces import BaseSource, Context
from fedkd.core.source_types import AnsweredBatch, Cost, FollowUps, Needs, Proposal, Turn
from fedkd.errors import SettingsError


@dataclass(frozen=True, eq=False)
class PublicSamples:
    """The settings.

    Attributes:
        times: as how many samples each is drawn from the bank, >= 1.
    """

    times: int = 1
    needs: ClassVar[Needs] = Needs(public_data=True)
    cost: ClassVar[Cost] = Cost()

    def __post_init__(self) -> None:
        if self.times < 1:
            raise SettingsError(f"public samples count {self.times} times; expected >= 1")

    def build(self, context: Context) -> "PublicPool":
        """The source.

        Raises:
            SettingsError: there are none, or teachers read others.
        """
        if context.public is None:
            raise SettingsError("this method needs public samples of yours; see images.public")
        return PublicPool(distinct(context.public, context.shape), context.bank, self.times)


class PublicPool(BaseSource):
    """The coordinator's own samples, and what was answered to each.

    Args:
        images: (N, C, H, W) uint8, no two alike.
        bank: whatever is in it already was asked about.
        times: as how many samples each is drawn from the bank.
    """

    def __init__(self, images: Tensor, bank: Bank, times: int = 1) -> None:
        self.images, self.bank, self.times = images, bank, times
        self._left = torch.arange(len(images))
        self._drawn = self._known = self._left[:0]
        self._logits = torch.empty(0, 0)

    @property
    def urgent(self) -> bool:
        """Whether there is one that nobody was asked about."""
        self._left = self._left[self.bank.fresh(self.images[self._left])]
        return bool(len(self._left))

    def propose(self, turn: Turn) -> Proposal | None:
        """The next ones; only while some are left."""
        self._drawn = self._left[: turn.count]
        return Proposal(self.images[self._drawn], "public", times=self.times)

    def learn(self, answered: AnsweredBatch) -> FollowUps | None:
        """Keep what was answered to each."""
        target = answered.target
        self._logits = torch.cat([self._logits.reshape(-1, target.shape[1]), target])
        self._known = torch.cat([self._known, self._drawn])
        return None

    def known(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """``count`` that were asked about, with replacement: (B, C, H, W) uint8 and (B, K) logits.

        Raises:
            SettingsError: none was.
        """
        if not len(self._known):
            raise SettingsError("no public sample was answered; bring some that nobody has")
        index = torch.randint(len(self._known), (count,), generator=rng)
        return self.images[self._known[index]], self._logits[index]

    def state(self) -> State:
        """What was answered to which."""
        return State({"known": self._known.clone(), "logits": self._logits.clone()})

    def restore(self, state: State) -> None:
        """Know again what was known when ``state`` was taken of the same images."""
        self._known = state.tensors["known"].clone()
        self._logits = state.tensors["logits"].clone()


def distinct(images: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Public samples, (N, C, H, W) uint8, each once.

    Args:
        images: all of them.
        shape: (C, H, W) that teachers read.

    Raises:
        SettingsError: teachers read others, or there are none.
    """
    if images.dtype != torch.uint8 or images.shape[1:] != shape or not len(images):
        raise SettingsError(
            f"public samples are {images.dtype} {tuple(images.shape)}, expected uint8 "
            f"(N, {', '.join(map(str, shape))}), N > 0; convert them"
        )
    once: Tensor = torch.unique(images, dim=0)
    return once
