"""A partition as a file, so that other systems can be measured on the very same shares.

It is an .npz of index arrays ``client_0`` ... ``client_{K - 1}``, one for each of K institutions.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedkd.data.datasets import read_arrays
from fedkd.errors import DataError, SettingsError


def check_partition_path(path: Path) -> None:
    """Refuse a path for a new partition file, before work is spent on the partition.

    Raises:
        SettingsError: another suffix than .npz, a file that is there already, or no such folder.
    """
    if path.suffix != ".npz":
        raise SettingsError(f"{path}: expected a file name that ends in .npz")
    if path.exists() or not path.parent.is_dir():
        raise SettingsError(
            f"cannot write {path}; name a file that is not there yet, in a folder that is"
        )


def write_partition(path: Path, parts: Sequence[Tensor]) -> None:
    """Write a new partition file, which `read_partition` reads.

    Args:
        path: see `check_partition_path`.
        parts: one index tensor for each institution.

    Raises:
        SettingsError: see `check_partition_path`, or the file cannot be written.
    """
    check_partition_path(path)
    arrays: dict[str, Any] = {f"client_{number}": part.numpy() for number, part in enumerate(parts)}
    try:
        with path.open("xb") as file:
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
