"""`fedkd partition` writes the shares that institutions of a run have."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fedkd.client.institution import simulated_assets
from fedkd.client.vault.local_data import open_local_data
from fedkd.data.datasets import open_data
from fedkd.data.gallery import without_gallery
from fedkd.errors import DataError, SettingsError
from fedkd.experiment import load_experiment
from fedkd.simulations.partition_export import export_partition


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("digits", ["institutions.alpha=0.3", "institutions.partition_seed=4"]),
        ("digits", ['institutions.labels=[["0","1","2","3","4"],["4","5","6","7","8","9"]]']),
        ("digits-tasks", []),
        ("digits-embed", []),
        ("diabetes", ["institutions.partition=column", "institutions.partition_column=age"]),
    ],
)
def test_a_run_with_the_file_has_the_same_institutions(
    name: str, settings: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "parts.npz"
    drawn = load_experiment(name, settings)
    export_partition(drawn, path)
    given = drawn.institutions.model_copy(
        update={"partition": "file", "partition_file": str(path), "partition_column": None}
    )
    read = drawn.model_copy(update={"institutions": given})
    printed = capsys.readouterr().out
    i = drawn.institutions
    images = without_gallery(open_data(i.data, i.root), i.gallery).train_images
    parts = np.load(path)
    for index in range(i.count):
        one, other = (open_local_data(simulated_assets(each, index)) for each in (drawn, read))
        assert torch.equal(images[parts[f"client_{index}"]], one.images)
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
        assert torch.equal(one.test_images, other.test_images)
        assert f"{len(one.images):,}" in printed


def test_samples_of_each_class_are_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = load_experiment("digits", [])
    export_partition(experiment, tmp_path / "parts.npz")
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[-5:]]
    for index, row in enumerate(rows):
        labels = open_local_data(simulated_assets(experiment, index)).labels
        assert row[2:] == [str((labels == digit).sum().item()) for digit in range(10)]


def test_a_file_that_is_there_is_refused_before_data_are_opened(tmp_path: Path) -> None:
    (tmp_path / "parts.npz").touch()
    nowhere = load_experiment("mnist", [f"institutions.root={str(tmp_path)!r}"])
    with pytest.raises(SettingsError, match="name a file that is not there yet"):
        export_partition(nowhere, tmp_path / "parts.npz")
    with pytest.raises(DataError):
        export_partition(nowhere, tmp_path / "other.npz")
    assert not (tmp_path / "other.npz").exists()
