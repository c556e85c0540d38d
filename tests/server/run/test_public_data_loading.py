"""What a coordinator collects is opened as teachers read it."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fedkd.core.public_data import PublicData
from fedkd.data.datasets import open_data
from fedkd.errors import DataError, SettingsError
from fedkd.experiment import load_experiment
from fedkd.experiment.sections import Images
from fedkd.models import InProcess, build_network
from fedkd.server.coordinator import ingredients
from fedkd.server.run.public_data_loading import (
    TYPEFACES,
    check_public_data,
    load_public_data,
    load_public_images,
)


def test_typeset_digits_are_of_no_institution_and_each_time_the_same() -> None:
    images = load_public_images("typeset-digits", (1, 8, 8))
    assert (images.shape, images.dtype) == ((len(TYPEFACES) * 10, 1, 8, 8), torch.uint8)
    assert torch.equal(images, load_public_images("typeset-digits", (1, 8, 8)))
    data = open_data("digits")
    everybody = {x.numpy().tobytes() for x in (*data.train_images, *data.test_images)}
    assert not everybody & {x.numpy().tobytes() for x in images}
    assert 40 < float(images.float().mean()) < 120
    assert load_public_images("typeset-digits", (3, 28, 20)).shape == (210, 3, 28, 20)


def test_a_folder_is_searched_and_its_pictures_are_fitted(tmp_path: Path) -> None:
    (tmp_path / "deeper").mkdir()
    half = np.zeros((20, 40), np.uint8)
    half[:, 20:] = 255
    Image.fromarray(half).save(tmp_path / "deeper" / "b.png")
    Image.fromarray(np.full((8, 8, 3), (255, 0, 0), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "notes.txt").write_text("no picture")
    colour = load_public_images(str(tmp_path), (3, 8, 8))
    assert colour.shape == (2, 3, 8, 8)
    assert colour[0, :, 0, 0].tolist() == [255, 0, 0]
    grey = load_public_images(str(tmp_path), (1, 8, 8))
    assert grey[1, 0, :, 0].max() == 0
    assert grey[1, 0, :, 7].min() == 255


def test_an_archive_of_pixels_is_taken_as_it_is(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8), np.uint8)
    np.savez(tmp_path / "own.npz", images=pixels)
    assert np.array_equal(load_public_images(str(tmp_path / "own.npz"), (1, 8, 8))[:, 0], pixels)


@pytest.mark.parametrize("name", ["nothing", "empty", "garbage.npz", "other.npz", "broken"])
def test_what_cannot_be_read_is_told_in_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"no picture")
    (tmp_path / "garbage.npz").write_bytes(b"no archive")
    np.savez(tmp_path / "other.npz", labels=np.zeros(3))
    with pytest.raises(DataError, match="collected images at") as caught:
        load_public_images(str(tmp_path / name), (1, 8, 8))
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="collected images have 1 or 3"):
        load_public_images(str(tmp_path / name), (2, 8, 8))


def test_the_shipped_experiment_hands_them_to_the_coordinator() -> None:
    teachers = InProcess({"a": build_network("mlp", 10, (1, 8, 8), 0)}, (1, 8, 8), 10)
    parts = ingredients(load_experiment("digits-hidfd"), teachers.cards)
    assert isinstance(parts.public, PublicData)
    assert parts.public.images.shape == (210, 1, 8, 8)
    assert ingredients(load_experiment("digits-dense"), teachers.cards).plan.rule == "mean_logits"


def idx(images: np.ndarray) -> bytes:  # type: ignore[type-arg]
    """A file of MNIST's format."""
    return (
        bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in images.shape) + bytes(images)
    )


def pool_below(folder: Path) -> Images:
    """Two data sets: eight images of MNIST's format, and five in a Parquet file."""
    digits = np.random.default_rng(0).integers(1, 256, (8, 28, 28), np.uint8)
    (folder / "MNIST" / "raw").mkdir(parents=True)
    (folder / "MNIST" / "raw" / "train-images-idx3-ubyte").write_bytes(idx(digits))
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    encoded = []
    for level in range(5):
        data = BytesIO()
        Image.new("RGB", (32, 32), (level, level, level)).save(data, "PNG")
        encoded.append({"bytes": data.getvalue()})
    (folder / "junk").mkdir()
    table = pyarrow.table({"img": encoded, "label": list(range(5))})
    parquet.write_table(table, folder / "junk" / "train.parquet")
    names = ("torchvision:MNIST", "parquet:junk")
    return Images(public=names, public_root=str(folder), public_counts=(3, 5))


def test_several_data_sets_are_joined_grey_and_averaged_by_area(tmp_path: Path) -> None:
    settings = pool_below(tmp_path)
    found = load_public_data(settings, (1, 7, 7))
    check_public_data(settings)
    assert found.names == ("torchvision:MNIST", "parquet:junk")
    assert found.data_set.tolist() == [0] * 3 + [1] * 5
    digits = np.random.default_rng(0).integers(1, 256, (8, 28, 28), np.uint8)[:3]
    means = digits.reshape(3, 7, 4, 7, 4).mean((2, 4))
    assert np.abs(found.images[:3, 0].numpy() - means).max() <= 1
    assert found.images[3:].flatten(1).float().mean(1).tolist() == [0, 1, 2, 3, 4]


def test_a_margin_is_cut_where_that_is_wished(tmp_path: Path) -> None:
    pixels = np.zeros((2, 28, 28), np.uint8)
    pixels[0, 4:12, 20:24] = 200
    np.savez(tmp_path / "own.npz", images=pixels)
    whole = load_public_images("own.npz", (1, 8, 8), str(tmp_path))
    cut = load_public_images("own.npz", (1, 8, 8), str(tmp_path), trim=True)
    assert int((whole[0] > 0).sum()) < 12
    assert int((cut[0] == 200).sum()) == 32
    assert (cut[0, 0] == 200).any(1).all()
    assert not cut[1].any()


def test_what_is_missing_or_too_few_is_told(tmp_path: Path) -> None:
    settings = pool_below(tmp_path)
    with pytest.raises(DataError, match=r"MNIST has 8 images and images\.public_counts asks for 9"):
        load_public_data(settings.model_copy(update={"public_counts": (9, 5)}), (1, 8, 8))
    elsewhere = settings.model_copy(update={"public_root": str(tmp_path / "no")})
    with pytest.raises(DataError, match=r"no collected images .* images\.public_root"):
        check_public_data(elsewhere)
    with pytest.raises(SettingsError, match="torchvision:SVHN; expected one of MNIST"):
        check_public_data(Images(public="torchvision:SVHN"))
    for wrong in ({"public": ("a", "a")}, {"public": ("a", "b"), "public_counts": (1,)}):
        with pytest.raises(SettingsError, match="name each once, with a count for each"):
            Images(**wrong)
    (tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte").write_bytes(b"no header")
    with pytest.raises(DataError, match="cannot be read"):
        load_public_data(settings, (1, 8, 8))
