"""A data set is partitioned by what the settings name: a draw, a column, or a file."""

from pathlib import Path
from typing import Any

import pytest
import torch

from fedkd.data.datasets import open_data
from fedkd.data.partition import partition
from fedkd.data.partition_file import write_partition
from fedkd.data.partition_from_settings import partition_from_settings
from fedkd.errors import SettingsError
from fedkd.experiment import load_experiment
from fedkd.experiment.sections import Institutions


def settings(**changes: Any) -> Institutions:
    return load_experiment("digits").institutions.model_copy(update=changes)


@pytest.mark.parametrize("how", ["iid", "dirichlet", "shards"])
def test_every_setting_of_a_draw_counts(how: str) -> None:
    digits = open_data("digits")
    given = settings(count=3, partition=how, alpha=0.3, shards=3, partition_seed=7)
    drawn = partition_from_settings(digits, given)
    expected = partition(digits.train_labels, 3, how, alpha=0.3, shards_per_institution=3, seed=7)
    assert all(torch.equal(a, b) for a, b in zip(drawn, expected, strict=True))


def test_a_file_is_read(tmp_path: Path) -> None:
    digits, path = open_data("digits"), tmp_path / "a.npz"
    parts = partition(digits.train_labels, 3, alpha=0.3, seed=7)
    write_partition(path, parts)
    read = partition_from_settings(
        digits, settings(count=3, partition="file", partition_file=str(path))
    )
    assert all(torch.equal(a, b) for a, b in zip(read, parts, strict=True))


def test_rows_are_dealt_out_by_a_column() -> None:
    table = open_data("table:diabetes")
    by_age = settings(count=2, partition="column", partition_column="age")
    ages = table.train_images[:, 0, 0, [c.name for c in table.columns].index("age")]
    young, old = partition_from_settings(table, by_age)
    assert ages[young].max() <= ages[old].min()
    with pytest.raises(SettingsError, match="'shoe' is no column"):
        partition_from_settings(table, by_age.model_copy(update={"partition_column": "shoe"}))
    with pytest.raises(SettingsError, match="these data are images"):
        partition_from_settings(open_data("digits"), by_age)
