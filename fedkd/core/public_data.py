"""Public data: the coordinator's own unlabelled samples, and of which data set each is."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from fedkd.errors import SettingsError


@dataclass(frozen=True, eq=False)
class PublicData:
    """Unlabelled samples of one or several data sets.

    Which data set a sample is of stands in the record of a run. Nothing is chosen by it.

    Attributes:
        images: (N, C, H, W) uint8.
        data_set: (N,), place in ``names``.
        names: of the data sets, as the user wrote them.
    """

    images: Tensor
    data_set: Tensor
    names: tuple[str, ...]

    @classmethod
    def of(cls, images: "Tensor | PublicData", name: str = "public") -> "PublicData":
        """Samples (N, C, H, W) uint8 of one data set; what is `PublicData` stays as it is."""
        if isinstance(images, PublicData):
            return images
        return cls(images, torch.zeros(len(images), dtype=torch.long), (name,))

    @classmethod
    def joined(cls, parts: dict[str, Tensor]) -> Self:
        """Samples of several data sets by name, each (N_i, C, H, W) uint8, all of one shape."""
        numbers = [torch.full((len(part),), i) for i, part in enumerate(parts.values())]
        return cls(torch.cat(list(parts.values())), torch.cat(numbers), tuple(parts))

    def distinct(self, shape: tuple[int, int, int]) -> "PublicData":
        """Each sample once, in the order of their bytes.

        Args:
            shape: (C, H, W) that teachers read.

        Raises:
            SettingsError: teachers read others, or there are none.
        """
        images = self.images
        if images.dtype != torch.uint8 or images.shape[1:] != shape or not len(images):
            raise SettingsError(
                f"public samples are {images.dtype} {tuple(images.shape)}, expected uint8 "
                f"(N, {', '.join(map(str, shape))}), N > 0; convert them"
            )
        once, place = torch.unique(images, dim=0, return_inverse=True)
        # A sample that two data sets have counts for the first of them.
        data_set = torch.full((len(once),), len(self.names))
        data_set.scatter_reduce_(0, place, self.data_set, "amin")
        return PublicData(once, data_set, self.names)

    def counts(self, which: Tensor) -> dict[str, int]:
        """How many of the samples at the places ``which`` (M,) are of each data set."""
        found = self.data_set[which].bincount(minlength=len(self.names)).tolist()
        return dict(zip(self.names, found, strict=True))
