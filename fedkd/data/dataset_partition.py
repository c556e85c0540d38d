"""The partition of a data set by its settings: drawn, by a column, or read from a file.

A partition file is an .npz of index arrays ``client_0`` ... ``client_{K - 1}``, one for each of K
institutions, so that other systems can be measured on the very same shares.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedkd.data.dataset import Dataset
from fedkd.data.datasets import read_arrays
from fedkd.data.partition import partition, partition_by_column
from fedkd.errors import DataError, SettingsError
from fedkd.protocol import abbreviated


def partition_dataset(
    data: Dataset,
    count: int,
    how: str,
    *,
    alpha: float = 0.5,
    shards: int = 2,
    seed: int = 0,
    column: str | None = None,
    file: str | Path | None = None,
) -> tuple[Tensor, ...]:
    """Partition the training samples of a data set.

    Args:
        data: with N training samples.
        count: institutions, >= 1.
        how: see `partition`; or ``column``, ``file``.
        alpha: of a Dirichlet partition.
        shards: for each institution.
        seed: 0 to 2**32 - 1.
        column: of a table, where ``how`` is ``column``.
        file: see `read_partition`, where ``how`` is ``file``.

    Returns:
        One index tensor for each institution, int64 and increasing.

    Raises:
        SettingsError: see `partition`; or there is no such column.
        DataError: see `read_partition`.
    """
    if column is not None:
        return partition_by_column(_column(data, column), count)
    if file is not None:
        return read_partition(file, count, len(data.train_labels))
    return partition(
        data.train_labels, count, how, alpha=alpha, shards_per_institution=shards, seed=seed
    )


def _column(data: Dataset, name: str) -> Tensor:
    """Values of a column of the training rows, (N,)."""
    names = [column.name for column in data.columns]
    if name not in names:
        raise SettingsError(
            f"partition_column {name!r} is no column of {data.name}; "
            f"{'choose one of ' + abbreviated(names) if names else 'these data are images'}"
        )
    return data.train_images[:, 0, 0, names.index(name)]


def write_partition(path: str | Path, parts: Sequence[Tensor]) -> None:
    """Write a new partition file, which `read_partition` reads.

    Args:
        path: ends in .npz.
        parts: one index tensor for each institution.

    Raises:
        SettingsError: another suffix, a file that is there already, or it cannot be written.
    """
    if Path(path).suffix != ".npz":
        raise SettingsError(f"{path}: expected a file name that ends in .npz")
    arrays: dict[str, Any] = {f"client_{number}": part.numpy() for number, part in enumerate(parts)}
    try:
        with Path(path).open("xb") as file:
            np.savez(file, **arrays)
    except OSError as error:
        raise SettingsError(f"cannot write {path}: {error.strerror}; name another file") from error


def read_partition(path: str | Path, count: int, total: int) -> tuple[Tensor, ...]:
    """A partition from an .npz file of index arrays ``client_0`` ... ``client_{count - 1}``.

    Unlike one that `partition` draws, it may leave images out.

    Args:
        path: the file.
        count: exact number of institutions in it.
        total: N; indices run from 0 to N - 1.

    Raises:
        DataError: unreadable, other institutions than expected, not whole numbers, out of range,
            or an image given twice.
    """
    names = [f"client_{index}" for index in range(count)]
    arrays = read_arrays(path)
    if set(arrays) != set(names):
        raise DataError(
            f"{path} describes {len(arrays)} institutions, expected client_0 to {names[-1]} and "
            f"nothing else; give another file or count"
        )
    parts = [arrays[name] for name in names]
    for name, part in zip(names, parts, strict=True):
        if part.ndim != 1 or not part.size or not np.issubdtype(part.dtype, np.integer):
            raise DataError(
                f"{path}: {name} is {part.dtype} {part.shape}, expected whole numbers (n,), n > 0"
            )
    indices = np.concatenate(parts)
    if indices.min() < 0 or indices.max() >= total:
        raise DataError(f"{path} has indices outside 0..{total - 1}; is it of another data set?")
    if len(np.unique(indices)) != len(indices):
        raise DataError(f"{path} gives some image twice; give each to one institution")
    return tuple(torch.tensor(np.sort(part).astype(np.int64)) for part in parts)
