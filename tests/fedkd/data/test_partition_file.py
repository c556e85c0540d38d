"""Partition files are read as they were written, checked, and never written over."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedkd.data.partition import partition
from fedkd.data.partition_file import read_partition, write_partition
from fedkd.errors import DataError, SettingsError

BALANCED = torch.arange(1000) % 10


def test_a_partition_is_read_as_it_was_written(tmp_path: Path) -> None:
    parts = partition(BALANCED, 3)
    write_partition(tmp_path / "a.npz", parts)
    read = read_partition(tmp_path / "a.npz", 3, len(BALANCED))
    assert all(torch.equal(a, b) for a, b in zip(read, parts, strict=True))
    with np.load(tmp_path / "a.npz") as file:
        assert [*file] == ["client_0", "client_1", "client_2"]
        assert file["client_1"].dtype == np.int64


def test_no_file_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"of somebody")
    with pytest.raises(SettingsError, match="name a file that is not there yet"):
        write_partition(tmp_path / "a.npz", [torch.arange(2)])
    assert (tmp_path / "a.npz").read_bytes() == b"of somebody"
    with pytest.raises(SettingsError, match=r"ends in \.npz"):
        write_partition(tmp_path / "a.txt", [torch.arange(2)])
    with pytest.raises(SettingsError, match="in a folder that is"):
        write_partition(tmp_path / "no" / "a.npz", [torch.arange(2)])


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ([[0, 1]], "describes 1"),
        ([[0, 1], [2], [3]], "describes 3"),
        ([[0, 1], [1, 2]], "twice"),
        ([[0, 0], [1, 2]], "twice"),
        ([[0, 1], [2, 10]], "outside 0..9"),
        ([[0, 1], [-1]], "outside 0..9"),
        ([[0, 1], []], "whole numbers"),
        ([[0, 1], [2.0]], "whole numbers"),
        ([[0, 1], [[2]]], "whole numbers"),
    ],
)
def test_a_bad_partition_file_is_refused(tmp_path: Path, parts: list[Any], said: str) -> None:
    arrays = {f"client_{index}": np.array(part) for index, part in enumerate(parts)}
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=said):
        read_partition(tmp_path / "a.npz", 2, 10)


def test_no_partition_file_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no readable"):
        read_partition(tmp_path / "none.npz", 2, 10)
