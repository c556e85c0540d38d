"""An institution's local data: open the data set and take the institution's share of it.

Only the vault opens them. Errors name files and settings, never contents.
"""

from dataclasses import dataclass, field, replace
from functools import lru_cache

import torch
from torch import Tensor

from fedkd.client.vault.vault_settings import Assets
from fedkd.data.dataset import Dataset
from fedkd.data.datasets import open_data
from fedkd.data.gallery import without_gallery
from fedkd.data.partition import Assignment, assign_samples, known_tasks
from fedkd.data.partition_from_settings import partition_from_settings
from fedkd.errors import DataError, SettingsError
from fedkd.protocol import Column, NamedTask, Number, output_names_of


@dataclass(frozen=True, eq=False)
class LocalData:
    """An institution's share of a data set. Its printed form shows no content."""

    images: Tensor = field(repr=False)
    """(N, C, H, W) uint8."""
    labels: Tensor = field(repr=False)
    test_images: Tensor = field(repr=False)
    test_labels: Tensor = field(repr=False)
    classes: int = 0
    columns: tuple[Column, ...] = ()
    numbers: tuple[Number, ...] = ()
    class_names: tuple[str, ...] = ()
    tasks: tuple[NamedTask, ...] = ()
    """Of the labels: (N,) of one task, (N, M) of more."""


def open_local_data(assets: Assets) -> LocalData:
    """The local data of an institution.

    Raises:
        DataError: there are no such data, or no such share of them.
        SettingsError: a partition that does not exist.
    """
    data = _shared(assets.data, assets.root, assets.gallery)
    if assets.class_names and len(assets.class_names) != data.classes:
        raise DataError(
            f"class_names names {len(assets.class_names)} classes and the data have "
            f"{data.classes}; name each of them, in their order"
        )
    if data.tasks and (assets.labels or assets.class_names or assets.task):
        raise SettingsError(
            f"{data.name} has several tasks with classes of their own, so it takes neither labels, "
            "class_names nor task; name the tasks of each institution in tasks"
        )
    assignment = _assignment(replace(assets, index=0, model="", tasks=()))
    train = assignment.parts[assets.index]
    test = assignment.tests[assets.index]
    classes = assignment.known[assets.index]
    train_labels, test_labels = data.train_labels[train], data.test_labels[test]
    if data.tasks:
        return _labelled_tasks(assets, data, train, test)
    if assets.tasks:
        known_tasks(assets.tasks, assets.index, ())
    if not data.numbers:
        number = torch.full((data.classes,), -1)
        number[list(classes)] = torch.arange(len(classes))
        train_labels, test_labels = number[train_labels], number[test_labels]
    return LocalData(
        data.train_images[train],
        train_labels,
        data.test_images[test],
        test_labels,
        len(classes),
        data.columns,
        data.numbers,
        tuple(data.class_names[known] for known in classes) if data.class_names else (),
    )


def _labelled_tasks(assets: Assets, data: Dataset, train: Tensor, test: Tensor) -> LocalData:
    """An institution's share, with the labels of its own tasks."""
    own = known_tasks(assets.tasks, assets.index, [task.name for task in data.tasks])
    tasks = tuple(data.tasks[place] for place in own)
    columns = own[0] if len(own) == 1 else list(own)
    return LocalData(
        data.train_images[train],
        data.train_labels[train][:, columns],
        data.test_images[test],
        data.test_labels[test][:, columns],
        len(output_names_of(tasks)),
        data.columns,
        tasks=tasks,
    )


@lru_cache(maxsize=1)
def _open_dataset(name: str, root: str | None) -> Dataset:
    """Cached: the institutions of a simulation share it, and would else open it once each."""
    return open_data(name, root)


def _shared(name: str, root: str | None, gallery: int) -> Dataset:
    """The data set without the gallery."""
    return without_gallery(_open_dataset(name, root), gallery)


@lru_cache(maxsize=1)
def _assignment(share: Assets) -> Assignment:
    """Which samples each institution has; cached, since a thousand institutions share it.

    Args:
        share: of any institution, with nothing in it that differs between institutions.
    """
    data = _shared(share.data, share.root, share.gallery)
    parts = partition_from_settings(data, share)
    names = share.class_names or data.class_names
    return assign_samples(
        parts, data.train_labels, data.test_labels, data.classes, share.labels, names
    )
