"""The partition that settings describe: drawn, by a column of a table, or read from a file."""

from typing import Protocol

from torch import Tensor

from fedkd.data.dataset import Dataset
from fedkd.data.partition import partition, partition_by_column
from fedkd.data.partition_file import read_partition
from fedkd.errors import SettingsError
from fedkd.protocol import abbreviated


class PartitionSettings(Protocol):
    """Settings of a partition, of an experiment's institutions or of one institution's assets."""

    @property
    def count(self) -> int:
        """Institutions, >= 1."""

    @property
    def partition(self) -> str:
        """``iid``, ``dirichlet`` or ``shards``, see `partition`; ``column`` or ``file``."""

    @property
    def alpha(self) -> float:
        """Concentration of a Dirichlet partition."""

    @property
    def shards(self) -> int:
        """Shards for each institution."""

    @property
    def partition_seed(self) -> int:
        """0 to 2**32 - 1."""

    @property
    def partition_column(self) -> str | None:
        """Column of a table by which its rows are dealt out, or None."""

    @property
    def partition_file(self) -> str | None:
        """Path, see `read_partition`, or None."""


def partition_from_settings(data: Dataset, settings: PartitionSettings) -> tuple[Tensor, ...]:
    """Partition the training samples of a data set as the settings say.

    Returns:
        One index tensor for each institution, int64 and increasing.

    Raises:
        SettingsError: see `partition`; or there is no such column.
        DataError: see `read_partition`.
    """
    if settings.partition_column is not None:
        return partition_by_column(_column(data, settings.partition_column), settings.count)
    if settings.partition_file is not None:
        return read_partition(settings.partition_file, settings.count, len(data.train_labels))
    return partition(
        data.train_labels,
        settings.count,
        settings.partition,
        alpha=settings.alpha,
        shards_per_institution=settings.shards,
        seed=settings.partition_seed,
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
