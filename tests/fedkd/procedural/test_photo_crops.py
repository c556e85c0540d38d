"""Crops of photographs: two scenes, any place and scale, recoloured, and of contrast."""

import itertools

import pytest
import torch

from fedkd.errors import SettingsError
from fedkd.experiment import load_experiment
from fedkd.procedural import PhotoCrops, build_prior
from fedkd.procedural.photo_crops import photographs, recoloured
from fedkd.server.experiment_check import check_experiment

COLOUR = (3, 32, 32)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_both_photographs_are_halved_until_they_are_small() -> None:
    for pyramid in photographs():
        assert pyramid[0].shape == (3, 427, 640)
        for large, small in itertools.pairwise(pyramid):
            assert small.shape[1:] == (large.shape[1] // 2, large.shape[2] // 2)
        assert 0 <= float(pyramid[0].min()) < float(pyramid[0].max()) <= 1


def test_a_crop_of_the_whole_shows_the_mean_of_a_photograph() -> None:
    crops = PhotoCrops(sides=(1.0, 1.0), tries=1)._crops(400, (3, 16, 16), rng())
    means = torch.stack([pyramid[0].mean((1, 2)) for pyramid in photographs()])
    nearest = torch.cdist(crops.mean((2, 3)), means).min(1)
    assert nearest.values.mean() < 0.12
    assert nearest.indices.bincount().min() > 150, "both photographs have a turn"


def test_the_crop_of_most_contrast_is_taken() -> None:
    one, many = (PhotoCrops(tries=n).draw(300, COLOUR, rng()).float() for n in (1, 6))
    assert many.std((1, 2, 3)).mean() > 1.15 * one.std((1, 2, 3)).mean()


def test_small_crops_are_smoother_than_large_ones() -> None:
    def roughness(low: float) -> float:
        images = PhotoCrops(sides=(low, low), tries=1).draw(300, COLOUR, rng()).float()
        return float(images.diff(dim=3).abs().mean())

    assert roughness(0.05) < 0.8 * roughness(0.6)


def test_recolouring_turns_hue_and_keeps_grey_grey() -> None:
    grey = torch.rand(50, 1, 8, 8, generator=rng()).expand(-1, 3, -1, -1)
    made = recoloured(grey, 3, rng(1))
    assert torch.allclose(made[:, 0], made[:, 2], atol=1e-5)
    red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(400, -1, 4, 4)
    strongest = recoloured(red, 3, rng(2)).mean((2, 3)).argmax(1).bincount(minlength=3)
    assert strongest[0] > strongest[1] > 20, "half of the images keep their hue"
    assert strongest[2] > 20


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_images_of_other_channels_are_grey(channels: int) -> None:
    images = PhotoCrops().draw(8, (channels, 12, 9), rng())
    assert images.shape == (8, channels, 12, 9)
    assert all(torch.equal(images[:, 0], images[:, c]) for c in range(channels))


def test_without_scikit_learn_the_prior_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    photographs.cache_clear()
    monkeypatch.setattr("fedkd.procedural.photo_crops.find_spec", lambda name: None)
    with pytest.raises(SettingsError, match="pip install scikit-learn"):
        build_prior("photo").draw(1, COLOUR, rng())
    for name in ("photo", "photo-collage"):
        experiment = load_experiment("digits", [f'images.priors=["pink", "{name}"]'])
        with pytest.raises(SettingsError, match="pip install scikit-learn"):
            check_experiment(experiment)  # before an institution is waited for
    check_experiment(load_experiment("digits", ['images.priors=["pink", "collage"]']))
