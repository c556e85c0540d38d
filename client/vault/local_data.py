"""An institution's own part of its data, as its holding names it. Only the vault opens one.

It knows no teacher. Errors name files and settings, never contents.
"""

from dataclasses import dataclass, field, replace
from functools import lru_cache

import torch
from torch import Tensor

from fedkd.client.vault.assets import Holding
from fedkd.data.datasets import Dataset, open_data
from fedkd.data.partition import Deal, deal, partition, read_partition
from fedkd.errors import DataError


@dataclass(frozen=True, eq=False)
class Shard:
    """An institution's own part. Its printed form shows no content."""

    images: Tensor = field(repr=False)
    """(N, C, H, W) uint8."""
    labels: Tensor = field(repr=False)
    test_images: Tensor = field(repr=False)
    test_labels: Tensor = field(repr=False)
    classes: int = 0


def open_shard(own: Holding) -> Shard:
    """What an institution has.

    Raises:
        DataError: there are no such data, or no such part of them.
        SettingsError: a partition that does not exist.
    """
    data = _opened(own.data, own.root)
    if own.names and len(own.names) != data.classes:
        raise DataError(
            f"class_names names {len(own.names)} classes and the data have {data.classes}; "
            "name each of them, in their order"
        )
    dealt = _dealt(replace(own, index=0, model=""))
    mine, tested, classes = (of[own.index] for of in (dealt.parts, dealt.tests, dealt.known))
    number = torch.full((data.classes,), -1)
    number[list(classes)] = torch.arange(len(classes))
    return Shard(
        data.train_images[mine],
        number[data.train_labels[mine]],
        data.test_images[tested],
        number[data.test_labels[tested]],
        len(classes),
    )


@lru_cache(maxsize=1)
def _opened(name: str, root: str | None) -> Dataset:
    """Shared by the institutions of a simulation, which would else open it once each."""
    return open_data(name, root)


@lru_cache(maxsize=1)
def _dealt(share: Holding) -> Deal:
    """How the data of a share are dealt out; a thousand institutions would deal a thousand times.

    Args:
        share: of anybody, with nothing in it that differs from one institution to another.
    """
    data = _opened(share.data, share.root)
    if share.partition_file is not None:
        parts = read_partition(share.partition_file, share.count, len(data.train_labels))
    else:
        parts = partition(
            data.train_labels,
            share.count,
            share.partition,
            alpha=share.alpha,
            shards_per_institution=share.shards,
            seed=share.partition_seed,
        )
    return deal(parts, data.train_labels, data.test_labels, data.classes, share.labels)
