"""Augmentation: what is moved is what was there, and where nothing moves, nothing is drawn."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedkd.client.institution import simulated_assets
from fedkd.core.augmentation import NO_AUGMENTATION, Augmentation
from fedkd.errors import SettingsError
from fedkd.experiment import load_experiment
from fedkd.models import InProcess, build_network
from fedkd.server.coordinator import ingredients


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int, side: int = 6) -> Tensor:
    return torch.randint(1, 256, (count, 3, side, side + 1), generator=rng(9), dtype=torch.uint8)


def moved(image: Tensor, down: int, right: int, mirror: bool) -> Tensor:
    """One image (C, H, W) moved by hand."""
    image = image.flip(2) if mirror else image
    _, height, width = image.shape
    there = torch.zeros_like(image)
    for y in range(max(0, down), min(height, height + down)):
        for x in range(max(0, right), min(width, width + right)):
            there[:, y, x] = image[:, y - down, x - right]
    return there


@given(
    shift=st.integers(0, 3), mirrors=st.booleans(), count=st.integers(1, 5), seed=st.integers(0, 99)
)
@settings(max_examples=40, deadline=None)
def test_a_view_is_the_image_moved_in_one_of_the_ways(
    shift: int, mirrors: bool, count: int, seed: int
) -> None:
    given = images(count)
    seen = Augmentation(shift, mirrors).augment(given, rng(seed))
    assert seen.shape == given.shape
    assert seen.dtype == given.dtype
    ways = range(-shift, shift + 1)
    for image, view in zip(given, seen, strict=True):
        assert any(
            torch.equal(view, moved(image, down, right, mirror))
            for down in ways
            for right in ways
            for mirror in ([False, True] if mirrors else [False])
        )


def test_images_of_a_batch_are_moved_apart_and_half_are_mirrored() -> None:
    given = images(1).expand(2000, -1, -1, -1)
    mirrored = (Augmentation(0, True).augment(given, rng()) != given).flatten(1).any(1)
    assert float(mirrored.float().mean()) == pytest.approx(0.5, abs=0.06)
    assert len(Augmentation(2, True).augment(given, rng()).unique(dim=0)) == 5 * 5 * 2


def test_the_image_itself_costs_no_number() -> None:
    stream = rng()
    given = images(4)
    assert NO_AUGMENTATION.augment(given, stream) is given
    assert torch.equal(stream.get_state(), rng().get_state())
    assert not NO_AUGMENTATION
    assert Augmentation(1)
    assert Augmentation(mirrors=True)


def test_floats_are_moved_as_bytes_are() -> None:
    given = images(5)
    as_floats = Augmentation(2, True).augment(given / 255.0, rng(3))
    assert torch.equal(as_floats, Augmentation(2, True).augment(given, rng(3)) / 255.0)


def test_a_shift_below_none_is_refused() -> None:
    with pytest.raises(SettingsError, match="expected 0 or more"):
        Augmentation(-1)


def test_an_experiment_says_what_teachers_and_what_students_see() -> None:
    experiment = load_experiment("cifar10", ["student.shift=2"])
    assert simulated_assets(experiment, 0).training.augmentation == Augmentation(4, True)
    shape = (3, 32, 32)
    cards = InProcess({"a": build_network("mlp", 10, shape, 0)}, shape, 10).cards
    assert ingredients(experiment, cards).plan.augmentation == Augmentation(2, True)
    assert ingredients(load_experiment("digits"), cards).plan.augmentation == NO_AUGMENTATION
