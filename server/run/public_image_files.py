"""Public image files: read unlabelled images from folders, archives, Parquet and IDX files.

The coordinator cannot open the labelled data sets of institutions (`fedkd.data`), so it has readers
of its own. None of them reads a label.
"""

import gzip
from collections.abc import Callable, Iterator, Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from fedkd.errors import DataError, SettingsError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"})
IDX_NAMES = ("MNIST", "FashionMNIST", "KMNIST")
"""Data sets of torchvision's that are IDX files."""
IDX_HEADER = bytes([0, 0, 8, 3])
"""Of an IDX file of bytes in three dimensions."""
ROWS = 1000
"""Rows of a Parquet file that are read at once."""


def image_reader(name: str, root: str | None) -> Callable[[], Iterator[Image.Image]]:
    """What reads the images of that name, in their order.

    Args:
        name: ``folder:PATH`` or PATH, ``npz:PATH`` or PATH.npz, ``parquet:PATH``, ``torchvision:``
            with one of `IDX_NAMES`.
        root: folder that PATH is relative to; None: the current one.

    Raises:
        SettingsError: a data set that cannot be read without its library.
        DataError: nothing is there.
    """
    kind, colon, rest = name.partition(":")
    if not colon or kind not in READERS:
        kind, rest = ("npz" if name.endswith(".npz") else "folder"), name
    if kind == "torchvision":
        if rest not in IDX_NAMES:
            raise SettingsError(
                f"public images torchvision:{rest}; expected one of {', '.join(IDX_NAMES)}, or "
                "folder:, npz: or parquet: with a path"
            )
        rest = f"{rest}/raw"
    path = Path(root or "", rest)
    if not path.exists():
        raise DataError(
            f"no collected images at {path}; put some there, or name their folder in "
            "images.public_root"
        )

    def read() -> Iterator[Image.Image]:
        try:
            yield from READERS[kind](path)
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"collected images at {path} cannot be read; give a folder of images, an .npz "
                "file with an array images of uint8, a folder of *train*.parquet files, or "
                "torchvision's files of MNIST"
            ) from error

    return read


def _folder(path: Path) -> Iterator[Image.Image]:
    for file in sorted(path.rglob("*")):
        if file.suffix.lower() in SUFFIXES:
            with Image.open(file) as image:
                yield image.convert("RGB")


def _npz(path: Path) -> Iterator[Image.Image]:
    with np.load(path, allow_pickle=False) as file:
        name = "images" if "images" in file else "train_images"
        yield from (Image.fromarray(pixels) for pixels in file[name])


def _idx(path: Path) -> Iterator[Image.Image]:
    """The training images of MNIST's format, compressed or not."""
    found = sorted(path.glob("train-images*ubyte*"))
    if not found:
        raise OSError("no train-images*ubyte")
    with gzip.open(found[0]) if found[0].suffix == ".gz" else found[0].open("rb") as file:
        if file.read(4) != IDX_HEADER:
            raise ValueError("not an IDX file of images")
        count, height, width = (int.from_bytes(file.read(4), "big") for _ in range(3))
        for _ in range(count):
            yield Image.frombytes("L", (width, height), file.read(height * width))


def _parquet(path: Path) -> Iterator[Image.Image]:
    """Encoded images in the column ``img`` or ``image`` of ``*train*.parquet``."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise SettingsError(
            "parquet: images need pyarrow, which is not installed; install fedkd[data]"
        ) from error
    files = sorted(path.glob("*train*.parquet"))
    if not files:
        raise OSError("no *train*.parquet")
    try:
        for file in files:
            table = parquet.ParquetFile(file)
            column = "img" if "img" in table.schema_arrow.names else "image"
            for batch in table.iter_batches(ROWS, columns=[column]):
                for cell in batch.column(0).to_pylist():
                    with Image.open(BytesIO(cell["bytes"])) as image:
                        yield image.convert("RGB")
    except pyarrow.ArrowException as error:
        raise OSError("no Parquet file of images") from error


READERS: Mapping[str, Callable[[Path], Iterator[Image.Image]]] = {
    "folder": _folder,
    "npz": _npz,
    "parquet": _parquet,
    "torchvision": _idx,
}
