"""Images that the coordinator has collected, and what was said of each. Opens no file.

They are nobody's secret: none of them is an institution's.
"""

import torch
from torch import Tensor

from fedkd.core.bank import Bank
from fedkd.core.state import State
from fedkd.errors import SettingsError
from fedkd.methods.method import Method
from fedkd.synthesis.sources import Drawn


class Collected:
    """The coordinator's own images, asked about once each.

    Args:
        images: (N, C, H, W) uint8, no two alike.
        bank: whoever is in it already was asked about.
    """

    def __init__(self, images: Tensor, bank: Bank) -> None:
        self.images, self.bank = images, bank
        self._left = torch.arange(len(images))
        self._drawn = self._known = self._left[:0]
        self._said = torch.empty(0, 0)

    @property
    def left(self) -> bool:
        """Whether there is one that nobody was asked about."""
        self._left = self._left[self.bank.fresh(self.images[self._left])]
        return bool(len(self._left))

    def draw(self, count: int, rng: torch.Generator) -> Drawn:
        """The next ``count``; only while some are left."""
        self._drawn = self._left[:count]
        return Drawn(self.images[self._drawn], "collected")

    def learn(self, origin: str, target: Tensor) -> None:
        """Remember what was said of each."""
        self._said = torch.cat([self._said.reshape(-1, target.shape[1]), target])
        self._known = torch.cat([self._known, self._drawn])

    def known(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """``count`` that were asked about, with replacement: (B, C, H, W) uint8 and (B, K) logits.

        Raises:
            SettingsError: none was.
        """
        if not len(self._known):
            raise SettingsError("no collected image was answered; collect some that nobody has")
        index = torch.randint(len(self._known), (count,), generator=rng)
        return self.images[self._known[index]], self._said[index]

    def state(self) -> State:
        """What was said of which."""
        return State({"known": self._known.clone(), "said": self._said.clone()})

    def restore(self, state: State) -> None:
        """Know again what was known when ``state`` was taken of the same images."""
        self._known, self._said = state.tensors["known"].clone(), state.tensors["said"].clone()


def own_images(
    collected: Tensor | None, method: Method, shape: tuple[int, int, int]
) -> Tensor | None:
    """What was collected, (N, C, H, W) uint8, each image once; None where a method needs nothing.

    Args:
        collected: all of it; None: nothing.
        method: that may have a use for it.
        shape: (C, H, W) that teachers read.

    Raises:
        SettingsError: the method has no use for it, cannot be without, or teachers read others.
    """
    if (collected is None) == bool(method.inflation):
        need = "needs collected images" if method.inflation else "has no use for collected images"
        raise SettingsError(f"{method.name} {need}; see images.collected")
    if collected is None:
        return None
    if collected.dtype != torch.uint8 or collected.shape[1:] != shape or not len(collected):
        raise SettingsError(
            f"collected images are {collected.dtype} {tuple(collected.shape)}, expected uint8 "
            f"(N, {', '.join(map(str, shape))}), N > 0; convert them"
        )
    once: Tensor = torch.unique(collected, dim=0)
    return once
