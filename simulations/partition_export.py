"""The command `fedkd partition`: an experiment's partition as a file, for other systems."""

from collections.abc import Sequence
from pathlib import Path

import torch
from rich.table import Table
from torch import Tensor

from fedkd.client.institution import institution_name
from fedkd.data.dataset import Dataset
from fedkd.data.datasets import open_data
from fedkd.data.gallery import without_gallery
from fedkd.data.partition import assign_samples
from fedkd.data.partition_file import check_partition_path, write_partition
from fedkd.data.partition_from_settings import partition_from_settings
from fedkd.experiment import Experiment
from fedkd.server.run.console import console


def export_partition(experiment: Experiment, path: Path) -> None:
    """Write which training samples each institution of a run has, and print how many.

    Places count from 0 in the training set, or in what the gallery leaves of it. A run with
    ``institutions.partition`` "file" and this file has the same institutions.

    Args:
        experiment: resolved.
        path: of the new file, see `check_partition_path`.

    Raises:
        SettingsError: no such partition, or no such file can be written.
        DataError: the data, or the partition file that the experiment names, cannot be opened.
    """
    check_partition_path(path)
    i = experiment.institutions
    data = without_gallery(open_data(i.data, i.root), i.gallery)
    parts = partition_from_settings(data, i)
    assignment = assign_samples(
        parts, data.train_labels, data.test_labels, data.classes, i.labels, data.class_names
    )
    write_partition(path, assignment.parts)
    console.print(_table(path, data, assignment.parts))


def _table(path: Path, data: Dataset, parts: Sequence[Tensor]) -> Table:
    """Samples of each institution, and how many of each class where there are classes."""
    table = Table(title=str(path), title_justify="left", box=None)
    table.add_column("institution")
    table.add_column("samples", justify="right")
    rows = [[institution_name(n, len(parts)), f"{len(part):,}"] for n, part in enumerate(parts)]
    if not (data.numbers or data.tasks):
        table.add_column("of each class, in their order")
        labels = [data.train_labels[part] for part in parts]
        counts = torch.stack([own.bincount(minlength=data.classes) for own in labels])
        width = len(str(int(counts.max())))
        for row, own in zip(rows, counts.tolist(), strict=True):
            row.append(" ".join(f"{count:>{width}}" for count in own))
    for row in rows:
        table.add_row(*row)
    return table
