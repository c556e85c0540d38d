"""A gallery: training samples that no institution gets, among which test samples are searched."""

from dataclasses import replace

import torch
from torch import Tensor

from fedkd.data.dataset import Dataset
from fedkd.errors import SettingsError


def without_gallery(data: Dataset, count: int) -> Dataset:
    """The data set without its gallery of ``count`` training samples; 0: as it is.

    Raises:
        SettingsError: nothing would be left to train on.
    """
    if not count:
        return data
    _, rest = _split(data, count)
    return replace(data, train_images=data.train_images[rest], train_labels=data.train_labels[rest])


def gallery_of(data: Dataset, count: int) -> tuple[Tensor, Tensor]:
    """The gallery: (count, C, H, W) samples and their labels.

    Raises:
        SettingsError: see `without_gallery`.
    """
    taken, _ = _split(data, count)
    return data.train_images[taken], data.train_labels[taken]


def _split(data: Dataset, count: int) -> tuple[Tensor, Tensor]:
    """Places of the gallery and of all others, which are the same in every run; (n,) each."""
    total = len(data.train_labels)
    if not 0 <= count < total:
        raise SettingsError(
            f"a gallery of {count} of {total} training samples; expected 0 or more, and fewer than "
            "there are"
        )
    order = torch.randperm(total, generator=torch.Generator().manual_seed(0))
    return order[:count].sort().values, order[count:].sort().values
