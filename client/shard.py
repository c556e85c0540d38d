"""An institution's own part of its data, as its holding names it. Only the vault opens one.

It knows no teacher. Errors name files and settings, never contents.
"""

from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor

from client.holding import Holding
from fedkd.data import Dataset, open_data
from fedkd.errors import DataError
from fedkd.partition import known_classes, partition, read_partition, to_those_who_know


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
    if own.partition_file is not None:
        parts = read_partition(own.partition_file, own.count, len(data.train_labels))
    else:
        parts = partition(
            data.train_labels,
            own.count,
            own.partition,
            alpha=own.alpha,
            shards_per_institution=own.shards,
            seed=own.partition_seed,
        )
    turns = torch.arange(len(data.test_labels)) % own.count
    tests = tuple((turns == index).nonzero()[:, 0] for index in range(own.count))
    classes = tuple(range(data.classes))
    if own.names and len(own.names) != data.classes:
        raise DataError(
            f"class_names names {len(own.names)} classes and the data have {data.classes}; "
            "name each of them, in their order"
        )
    if own.labels:
        known = known_classes(own.labels, own.count, data.classes)
        parts = to_those_who_know(parts, data.train_labels, known)
        tests = to_those_who_know(tests, data.test_labels, known)
        classes = known[own.index]
    number = torch.full((data.classes,), -1)
    number[list(classes)] = torch.arange(len(classes))
    mine, tested = parts[own.index], tests[own.index]
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
