"""Data open from wherever they lie, pixel for pixel, and complain in one line."""

import struct
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from fedkd.data.datasets import open_data
from fedkd.errors import DataError, FedkdError, SettingsError

PIXELS = (load_digits().images[:60] * 15).astype(np.uint8)
LABELS = load_digits().target[:60].astype(np.int64)
COLOUR = np.stack([PIXELS, 255 - PIXELS, PIXELS // 2], -1)
TRAIN, TEST = slice(0, 40), slice(40, 60)


def write_npz(path: Path, images: Any = PIXELS, labels: Any = LABELS, **changes: Any) -> Path:
    arrays = {
        "train_images": images[TRAIN],
        "train_labels": labels[TRAIN],
        "test_images": images[TEST],
        "test_labels": labels[TEST],
    }
    arrays |= changes
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return path


def write_folder(root: Path, images: Any = PIXELS) -> Path:
    for split, part in (("train", TRAIN), ("test", TEST)):
        for place, (pixels, label) in enumerate(zip(images[part], LABELS[part], strict=True)):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f"{place:03}.png")
    return root


def by_class(images: Any, part: slice) -> torch.Tensor:
    """(N, H, W[, C]) in the order in which folders list them: by class, then by number."""
    order = np.argsort(LABELS[part], kind="stable")
    chosen = images[part][order]
    return torch.tensor(chosen[:, None] if chosen.ndim == 3 else np.moveaxis(chosen, -1, 1))


def test_digits_are_1437_and_360_images_of_all_classes() -> None:
    data = open_data("digits")
    assert data.shape == (1, 8, 8)
    assert (len(data.train_labels), len(data.test_labels), data.classes) == (1437, 360, 10)
    assert data.train_images.dtype == torch.uint8
    assert (int(data.train_images.min()), int(data.train_images.max())) == (0, 255)
    ratio = torch.bincount(data.train_labels) / torch.bincount(data.test_labels)
    assert ratio.sub(4).abs().max() < 0.2
    assert torch.equal(data.test_images, open_data("digits").test_images)


def test_the_printed_form_shows_no_content() -> None:
    assert repr(open_data("digits")) == "Dataset(name='digits', classes=10)"


def test_a_folder_of_grey_images_opens(tmp_path: Path) -> None:
    data = open_data("folder:", str(write_folder(tmp_path)))
    assert data.classes == 10
    assert torch.equal(data.train_images, by_class(PIXELS, TRAIN))
    assert torch.equal(data.test_images, by_class(PIXELS, TEST))
    assert data.train_labels.tolist() == sorted(LABELS[TRAIN].tolist())


def test_one_image_in_colour_makes_the_folder_colour(tmp_path: Path) -> None:
    write_folder(tmp_path / "set")
    picture = tmp_path / "set" / "train" / "class0" / "999.png"
    Image.fromarray(COLOUR[0]).save(picture)
    Image.fromarray(COLOUR[1]).save(tmp_path / "set" / "test" / "class1" / "999.png")
    data = open_data("folder:set", str(tmp_path))
    assert data.shape == (3, 8, 8)
    last_of_class_0 = int((data.train_labels == 0).sum()) - 1
    assert torch.equal(data.train_images[last_of_class_0], torch.tensor(COLOUR[0]).movedim(-1, 0))


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_a_medmnist_file_opens(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = write_npz(tmp_path / "some.npz", COLOUR, LABELS.reshape(shape))
    for data in (open_data(f"npz:{path}"), open_data("npz:some.npz", str(tmp_path))):
        assert torch.equal(data.train_images, torch.tensor(COLOUR[TRAIN]).movedim(-1, 1))
        assert data.test_labels.tolist() == LABELS[TEST].tolist()


def test_torchvision_data_open_and_are_never_downloaded(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="never downloaded"):
        open_data("torchvision:MNIST", str(tmp_path))
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for split, part in (("train", TRAIN), ("t10k", TEST)):
        pixels, labels = PIXELS[part], LABELS[part].astype(np.uint8)
        head = struct.pack(">4i", 0x803, *pixels.shape)
        (raw / f"{split}-images-idx3-ubyte").write_bytes(head + pixels.tobytes())
        head = struct.pack(">2i", 0x801, len(labels))
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(head + labels.tobytes())
    data = open_data("torchvision:MNIST", str(tmp_path))
    assert torch.equal(data.train_images, torch.tensor(PIXELS[TRAIN])[:, None])
    assert data.test_labels.tolist() == LABELS[TEST].tolist()


@pytest.mark.parametrize("column", ["img", "image"])
def test_a_parquet_pair_opens(tmp_path: Path, column: str) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="needs fedkd[data]")
    from pyarrow import parquet

    def png(pixels: Any) -> bytes:
        file = BytesIO()
        Image.fromarray(pixels).save(file, "png")
        return file.getvalue()

    for split, part in (("train", TRAIN), ("test", TEST)):
        cells = [{"bytes": png(pixels), "path": None} for pixels in COLOUR[part]]
        table = pyarrow.table({column: cells, "label": LABELS[part]})
        parquet.write_table(table, tmp_path / f"{split}-0.parquet")
    data = open_data("parquet:", str(tmp_path))
    assert torch.equal(data.test_images, torch.tensor(COLOUR[TEST]).movedim(-1, 1))
    assert data.train_labels.tolist() == LABELS[TRAIN].tolist()


def test_parquet_without_pyarrow_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    # None in sys.modules is how the interpreter itself marks a module as not to be had.
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(SettingsError, match=r"install fedkd\[data\]"):
        open_data("parquet:", ".")


def two_sizes(root: Path) -> str:
    write_folder(root)
    Image.fromarray(PIXELS[0][:4]).save(root / "train" / "class0" / "small.png")
    return "folder:"


def broken_image(root: Path) -> str:
    write_folder(root)
    (root / "test" / "class0" / "broken.png").write_bytes(b"not an image")
    return "folder:"


def sixteen_bits(root: Path) -> str:
    write_folder(root, PIXELS.astype(np.uint16) * 256)
    return "folder:"


def strange_class(root: Path) -> str:
    write_folder(root)
    (root / "test" / "class0").rename(root / "test" / "unheard")
    return "folder:"


def no_archive(root: Path) -> str:
    (root / "a.npz").write_bytes(b"PK\x03\x04 not really")
    return "npz:a.npz"


def cut_short(root: Path) -> str:
    whole = write_npz(root / "a.npz").read_bytes()
    (root / "a.npz").write_bytes(whole[: len(whole) // 2])
    return "npz:a.npz"


def corrupted(root: Path) -> str:
    whole = bytearray(write_npz(root / "a.npz").read_bytes())
    whole[1000] ^= 1
    (root / "a.npz").write_bytes(whole)
    return "npz:a.npz"


def one_array(root: Path) -> str:
    np.save(root / "a.npy", PIXELS)
    return "npz:a.npy"


def npz(**changes: Any) -> Callable[[Path], str]:
    def write(root: Path) -> str:
        return f"npz:{write_npz(root / 'a.npz', **changes).name}"

    return write


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda _: "folder:", "no images in"),
        (lambda _: "npz:", "no readable .npz"),
        (two_sizes, "several sizes"),
        (broken_image, "cannot be decoded"),
        (sixteen_bits, "8 bits"),
        (strange_class, "class that train has not"),
        (no_archive, "no readable .npz"),
        (cut_short, "no readable .npz"),
        (corrupted, "no readable .npz"),
        (one_array, "no readable .npz"),
        (npz(test_labels=None), "has no test_labels"),
        (npz(images=PIXELS / 255), "expected uint8"),
        (npz(labels=np.array([None] * 60)), "no readable .npz"),
        (npz(labels=np.eye(10, dtype=np.int64)[LABELS]), "one class for each image"),
        (npz(labels=LABELS / 1), "whole numbers"),
        (npz(labels=LABELS - 1), "below 0"),
        (npz(train_labels=LABELS[:39]), "differ in number"),
        (npz(train_labels=LABELS[TRAIN] // 2), "above the highest"),
        (npz(test_images=COLOUR[TEST]), r"expected one \(C, H, W\)"),
    ],
)
def test_bad_data_are_refused_in_one_line(
    tmp_path: Path, write: Callable[[Path], str], said: str
) -> None:
    name = write(tmp_path)
    with pytest.raises(DataError, match=said) as caught:
        open_data(name, str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["digit", "digits:8", "torchvision:Imagenet", "npzfile:a"])
def test_an_unknown_name_is_a_mistake_in_the_settings(name: str) -> None:
    with pytest.raises(SettingsError, match=r"unknown|cannot be loaded") as caught:
        open_data(name)
    assert isinstance(caught.value, FedkdError)
