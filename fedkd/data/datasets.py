"""Labelled data sets, opened from scikit-learn, torchvision, folders, Parquet or NumPy files.

    digits              1,797 images of 8x8 that ship inside scikit-learn; needs no root
    digits-attributes   the same as three tasks: odd, 5 or more, has a hole
    torchvision:NAME    a data set of torchvision's that lies below root; never downloaded
    folder:PATH         PATH/train/CLASS/*.png and PATH/test/CLASS/*.png, or other 8-bit images
    parquet:PATH        PATH/*train*.parquet and PATH/*test*.parquet, columns img or image, label
    npz:PATH            one file with train_images, train_labels, test_images, test_labels
    table:NAME          a table of scikit-learn's, or table:PATH, a file with a schema, see
                        `fedkd.data.tables`
    MODULE:FACTORY      a function of yours: root -> Dataset, see docs/extending.md

PATH is taken relative to root, and either of them may be left empty.
"""

import zipfile
import zlib
from collections.abc import Callable, Iterable
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fedkd.core.plugins import called, import_factory
from fedkd.data.attributes import with_attributes
from fedkd.data.dataset import Dataset
from fedkd.data.tables import open_table
from fedkd.errors import DataError, SettingsError

TABLE_KINDS = ("table",)
"""Kinds that `fedkd.data.tables` opens."""
ATTRIBUTES = "digits-attributes"
"""What `fedkd.data.attributes` labels."""
DIGITS_TEST = 360
"""Test images of the digits, one fifth; the split is stratified and fixed."""

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"})

TORCHVISION: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    **dict.fromkeys(
        ("MNIST", "FashionMNIST", "KMNIST", "CIFAR10", "CIFAR100", "USPS"),
        ({"train": True}, {"train": False}),
    ),
    **dict.fromkeys(("SVHN", "STL10"), ({"split": "train"}, {"split": "test"})),
}
"""Arguments for the training split and the test split, by name."""

Array: TypeAlias = NDArray[Any]
Labelled: TypeAlias = tuple[Array, Array]
"""Images (N, H, W), (N, H, W, C) and labels (N,) or (N, 1)."""
Opened: TypeAlias = tuple[Labelled, Labelled, tuple[str, ...]]
"""Training and test split, and names of the classes, (K,); none: classes are numbered."""


def open_data(name: str, root: str | None = None) -> Dataset:
    """The data set of that name; see the module for the names there are.

    Args:
        name: a kind, and after a colon its argument.
        root: folder that contains the data, or the file itself; None for the current folder.

    Raises:
        SettingsError: no such kind, or a kind whose optional dependency is not installed.
        DataError: the data are missing or malformed.
    """
    kind, colon, rest = name.partition(":")
    if kind in TABLE_KINDS:
        return open_table(name, root)
    if name == ATTRIBUTES:
        return with_attributes(open_data("digits"))
    if kind not in OPENERS:
        if colon:
            return _from_factory(name, root)
        raise SettingsError(
            f"unknown data {name!r}; choose digits, digits-attributes, torchvision:NAME, folder:, "
            "parquet:, npz: or table:NAME, or name a factory of yours as package.module:factory"
        )
    train, test, names = OPENERS[kind](rest, root)
    train_images, train_labels = _images(train[0], name), _labels(train[1], name)
    test_images, test_labels = _images(test[0], name), _labels(test[1], name)
    if train_images.shape[1:] != test_images.shape[1:]:
        raise DataError(
            f"{name}: training images are {tuple(train_images.shape[1:])} and test images "
            f"{tuple(test_images.shape[1:])}, expected one (C, H, W); convert them"
        )
    if (len(train_images), len(test_images)) != (len(train_labels), len(test_labels)):
        raise DataError(f"{name}: images and labels differ in number; give every image one label")
    classes = len(names) or int(train_labels.max()) + 1
    if int(test_labels.max()) >= classes:
        raise DataError(
            f"{name}: a test label is above the highest training label; number classes from 0 "
            f"and have each of them in the training split"
        )
    return Dataset(
        name, classes, train_images, train_labels, test_images, test_labels, class_names=names
    )


def _from_factory(name: str, root: str | None) -> Dataset:
    """What ``package.module:factory`` opens, called with ``root``."""
    opened = called("data", name, import_factory("data", name), root)
    if not isinstance(opened, Dataset):
        raise SettingsError(
            f"data {name!r} are a {type(opened).__name__}; expected a fedkd.data.dataset.Dataset"
        )
    return opened


def _digits(rest: str, _root: str | None) -> Opened:
    if rest:
        raise SettingsError(f"unknown data 'digits:{rest}'; write digits alone")
    # scikit-learn takes a second to import, and only some data need it.
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits().images, load_digits().target
    pixels = np.round(images * (255 / 16)).astype(np.uint8)
    split = train_test_split(pixels, labels, test_size=DIGITS_TEST, random_state=0, stratify=labels)
    return (split[0], split[2]), (split[1], split[3]), ()


def _torchvision(rest: str, root: str | None) -> Opened:
    if rest not in TORCHVISION:
        raise SettingsError(f"unknown torchvision:{rest}; choose one of {', '.join(TORCHVISION)}")
    import torchvision.datasets

    def split(which: dict[str, Any]) -> Labelled:
        found = getattr(torchvision.datasets, rest)(root or ".", **which, download=False)
        pixels = np.asarray(found.data)
        if rest in ("SVHN", "STL10"):
            pixels = np.moveaxis(pixels, 1, -1)
        return pixels, np.asarray(getattr(found, "targets", getattr(found, "labels", None)))

    train, test = TORCHVISION[rest]
    try:
        return split(train), split(test), ()
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(
            f"torchvision:{rest} cannot be read below {root or '.'}; put torchvision's files "
            f"there, they are never downloaded"
        ) from error


def _folder(rest: str, root: str | None) -> Opened:
    where = Path(root or "", rest)
    names = sorted(p.name for p in where.glob("train/*") if p.is_dir())

    def split(which: str) -> Labelled:
        files = sorted(p for p in where.glob(f"{which}/*/*") if p.suffix.lower() in IMAGE_SUFFIXES)
        if not files:
            raise DataError(f"no images in {where / which}; expected {which}/CLASS/IMAGE.png")
        if {p.parent.name for p in files} - set(names):
            raise DataError(f"{where / which} has a class that train has not; use the same folders")
        return _decoded(files, where / which), np.array([names.index(p.parent.name) for p in files])

    return split("train"), split("test"), tuple(names)


def _parquet(rest: str, root: str | None) -> Opened:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise SettingsError(
            "parquet: data need pyarrow, which is not installed; install fedkd[data]"
        ) from error
    where = Path(root or "", rest)

    def split(which: str) -> Labelled:
        files = sorted(where.glob(f"*{which}*.parquet"))
        if not files:
            raise DataError(f"no *{which}*.parquet in {where}; put one or more there")
        try:
            table = pyarrow.concat_tables([parquet.read_table(file) for file in files])
        except (OSError, pyarrow.ArrowException) as error:
            raise DataError(f"{where}: *{which}*.parquet cannot be read; copy it anew") from error
        column = "img" if "img" in table.column_names else "image"
        if missing := {column, "label"} - set(table.column_names):
            raise DataError(
                f"{where}: *{which}*.parquet has no column {' nor '.join(sorted(missing))}; "
                f"expected img or image (with bytes in it) and label"
            )
        cells = table[column].to_pylist()
        if not all(isinstance(cell, dict) and cell.get("bytes") for cell in cells):
            raise DataError(f"{where}: column {column} has no encoded image in bytes; embed them")
        encoded = (BytesIO(cell["bytes"]) for cell in cells)
        return _decoded(encoded, where), np.asarray(table["label"].to_pylist())

    return split("train"), split("test"), ()


def _npz(rest: str, root: str | None) -> Opened:
    where = Path(root or "", rest)
    keys = ("train_images", "train_labels", "test_images", "test_labels")
    arrays = read_arrays(where)
    if missing := [key for key in keys if key not in arrays]:
        raise DataError(f"{where} has no {', '.join(missing)}; save it with {', '.join(keys)}")
    return (arrays[keys[0]], arrays[keys[1]]), (arrays[keys[2]], arrays[keys[3]]), ()


def read_arrays(path: str | Path) -> dict[str, Array]:
    """All arrays of an .npz file, by name.

    Raises:
        DataError: it cannot be read, or holds objects that only running code could restore.
    """
    try:
        # np.load would take other kinds of file too, and give back something else.
        if not zipfile.is_zipfile(path):
            raise ValueError("no archive")
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} is no readable .npz file; give the path of one") from error


OPENERS: dict[str, Callable[[str, str | None], Opened]] = {
    "digits": _digits,
    "torchvision": _torchvision,
    "folder": _folder,
    "parquet": _parquet,
    "npz": _npz,
}


def _decoded(sources: Iterable[Path | BytesIO], where: Path) -> Array:
    """Encoded images as (N, H, W), or (N, H, W, 3) where any of them has colour."""
    pictures = []
    try:
        for source in sources:
            with Image.open(source) as picture:
                if picture.mode.startswith(("I", "F")):
                    raise DataError(f"{where} has images beyond 8 bits a channel; convert them")
                grey = picture.mode in ("1", "L", "LA")
                pictures.append(np.asarray(picture.convert("L" if grey else "RGB")))
    except OSError as error:
        raise DataError(f"{where} has an image that cannot be decoded; remove it") from error
    if len({picture.shape[:2] for picture in pictures}) != 1:
        raise DataError(f"{where} has images of several sizes; resize them to one")
    if len({picture.ndim for picture in pictures}) > 1:
        pictures = [p if p.ndim == 3 else np.repeat(p[..., None], 3, -1) for p in pictures]
    return np.stack(pictures)


def _images(pixels: Array, name: str) -> Tensor:
    """(N, H, W) or (N, H, W, C) -> (N, C, H, W)."""
    if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4) or not pixels.size:
        raise DataError(
            f"{name}: images are {pixels.dtype} {pixels.shape}, expected uint8 (N, H, W) or "
            f"(N, H, W, C); convert them"
        )
    last = pixels[:, None] if pixels.ndim == 3 else np.moveaxis(pixels, -1, 1)
    return torch.tensor(np.ascontiguousarray(last))


def _labels(numbers: Array, name: str) -> Tensor:
    """(N,) or (N, 1) -> (N,) int64."""
    single = numbers[:, 0] if numbers.ndim == 2 and numbers.shape[1] == 1 else numbers
    if single.ndim != 1 or not np.issubdtype(single.dtype, np.integer):
        raise DataError(
            f"{name}: labels are {numbers.dtype} {numbers.shape}, expected whole numbers (N,) "
            f"or (N, 1), one class for each image"
        )
    labels = torch.tensor(single.astype(np.int64))
    if not len(labels) or int(labels.min()) < 0:
        raise DataError(f"{name}: labels are missing or below 0; number classes from 0")
    return labels
