"""Export membership scores as .npz or .csv, for other tools."""

import csv
import io
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedkd.errors import SettingsError

SUFFIXES = (".npz", ".csv")
"""Of the files that can be written."""


def check_export(path: Path | None) -> None:
    """Check that scores can be written to a file, before they are computed; None: nothing to do.

    Raises:
        SettingsError: another suffix, a file that is there already, or no such folder.
    """
    if path is None:
        return
    if path.suffix not in SUFFIXES:
        raise SettingsError(f"{path}: expected a file name that ends in {' or '.join(SUFFIXES)}")
    if path.exists() or not path.parent.is_dir():
        raise SettingsError(f"cannot write {path}; name a file that is not there yet")


def export_scores(path: Path, columns: Mapping[str, NDArray[np.generic]]) -> None:
    """Write columns of one length to a new file that its owner alone can read.

    Args:
        path: .npz: an array for each column; .csv: a header of their names, then a row a sample.
        columns: (N,) each.

    Raises:
        SettingsError: see `check_export`, or the file cannot be written.
    """
    check_export(path)
    try:
        # Who is a member is private.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            if path.suffix == ".npz":
                np.savez_compressed(file, allow_pickle=False, **dict(columns))
                return
            with io.TextIOWrapper(file, encoding="utf-8", newline="") as text:
                writer = csv.writer(text)
                writer.writerow(columns)
                writer.writerows(zip(*(own.tolist() for own in columns.values()), strict=True))
    except OSError as error:
        raise SettingsError(f"cannot write {path}: {error.strerror}; name another file") from error
