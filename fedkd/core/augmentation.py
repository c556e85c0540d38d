"""Augmentation of images: random shifts and mirrorings that keep the label.

A teacher of natural images learns far more from augmented images than from the images alone; a
student may take it that a teacher would answer an augmented image as it answered the image.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkd.errors import SettingsError


@dataclass(frozen=True)
class Augmentation:
    """How far images are shifted, and whether they are mirrored.

    Raises:
        SettingsError: a shift below 0.
    """

    shift: int = 0
    """Most pixels by which it is shifted, down or up and right or left; what comes in is black."""
    mirrors: bool = False
    """Whether half of all images are mirrored, left to right."""

    def __post_init__(self) -> None:
        if self.shift < 0:
            raise SettingsError(f"images shifted by up to {self.shift} pixels; expected 0 or more")

    def __bool__(self) -> bool:
        """Whether it changes any image."""
        return self.shift > 0 or self.mirrors

    def augment(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """Each of ``images`` (B, C, H, W), shifted and mirrored at random; of the same type.

        Args:
            images: on any device.
            rng: in ordinary memory; nothing is drawn where no image changes.
        """
        if not self:
            return images
        count, _, height, width = images.shape
        wide = F.pad(images, (self.shift,) * 4)
        shifts = torch.randint(0, 2 * self.shift + 1, (2, count, 1), generator=rng)
        down, right = shifts.to(images.device)
        half = 0.5 if self.mirrors else 0.0
        mirrored = (torch.rand(count, 1, generator=rng) < half).to(images.device)
        rows = down + torch.arange(height, device=images.device)
        columns = torch.arange(width, device=images.device).expand(count, width)
        columns = right + torch.where(mirrored, columns.flip(1), columns)
        place = torch.arange(count, device=images.device).view(-1, 1, 1)
        # Indices around a slice put the channels last.
        return wide[place, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


NO_AUGMENTATION = Augmentation()
"""Images stay as they are."""


def jittered(images: Tensor, jitter: float, flips: bool, rng: torch.Generator) -> Tensor:
    """``images`` (B, C, H, W), rolled and mirrored as one, differentiably.

    Args:
        images: any type.
        jitter: most by which they are rolled, in sides, in [0, 1]; 0 draws nothing.
        flips: whether a fair coin mirrors them.
        rng: draws both.
    """
    if jitter:
        most = [int(jitter * side) for side in images.shape[2:]]
        moved = [int(torch.randint(-m, m + 1, (), generator=rng)) for m in most]
        images = images.roll(moved, (2, 3))
    if flips and bool(torch.rand((), generator=rng) < 0.5):
        images = images.flip(3)
    return images
