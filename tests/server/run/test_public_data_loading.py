"""What a coordinator collects is opened as teachers read it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fedkd.core.public_data import PublicData
from fedkd.data.datasets import open_data
from fedkd.errors import DataError
from fedkd.experiment import load_experiment
from fedkd.models import InProcess, build_network
from fedkd.server.coordinator import ingredients
from fedkd.server.run.public_data_loading import TYPEFACES, load_public_images


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
