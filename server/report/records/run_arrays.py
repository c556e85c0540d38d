"""Arrays of a run's folder: named numpy arrays in one ``.npz`` file, without pickle."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedkd.errors import DataError

Arrays: TypeAlias = Mapping[str, NDArray[Any]]
"""Arrays by name."""


def encode_arrays(arrays: Arrays) -> bytes:
    """The content of an ``.npz`` file, compressed."""
    content = io.BytesIO()
    compressed: Mapping[str, Any] = dict(arrays)
    np.savez_compressed(content, **compressed)
    return content.getvalue()


def load_arrays(file: Path, what: str = "file of arrays") -> dict[str, NDArray[Any]] | None:
    """All arrays of an ``.npz`` file; None without the file.

    Args:
        file: its path.
        what: the file is expected to be, for errors.

    Raises:
        DataError: it is no such file, or holds Python objects.
    """
    if not file.exists():
        return None
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, KeyError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise DataError(f"{file} is not a {what}: {' '.join(str(error).split())}") from None


def take_array(arrays: Arrays, name: str, shape: tuple[int | None, ...], kind: str) -> NDArray[Any]:
    """One of the arrays, checked.

    Args:
        arrays: of one file.
        name: of the array.
        shape: expected; None for any length.
        kind: expected kind of its values, as `numpy.dtype.kind` has it: ``f``, ``iu``, ``U``.

    Raises:
        DataError: it is missing, or has another shape or type.
    """
    if name not in arrays:
        raise DataError(f"no array {name} among {', '.join(sorted(arrays))}; make the run again")
    found = arrays[name]
    fits = len(found.shape) == len(shape) and all(
        expected is None or expected == own
        for expected, own in zip(shape, found.shape, strict=True)
    )
    if not fits or found.dtype.kind not in kind:
        raise DataError(
            f"array {name} is {found.dtype} {found.shape}; expected {shape} of kind {kind}"
        )
    return found
