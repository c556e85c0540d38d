"""Scattering features are formulas: no data, no seed, a slope everywhere, and worth learning on."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from fedkd.data.datasets import open_data
from fedkd.models import Scattering, build_network
from fedkd.models.wavelet_scattering import CHANNELS, binomial, morlets
from fedkd.protocol import as_float

DIGITS = open_data("digits")


def test_wavelets_see_edges_of_their_direction_and_no_flat_ground() -> None:
    bank = morlets()
    assert bank.shape == (16, 1, 9, 9)
    assert bank.sum((1, 2, 3)).abs().max() < 1e-6
    even, odd = bank[:8, 0], bank[8:, 0]
    torch.testing.assert_close(even.flip(1, 2), even)
    torch.testing.assert_close(odd.flip(1, 2), -odd)
    torch.testing.assert_close(even[4], even[0].T, atol=1e-6, rtol=1e-5)
    waves = torch.cos(2.2 * torch.arange(-4.0, 5.0)).expand(9, 9)
    assert (even * waves).sum((1, 2)).argmax() == 0
    assert (even * waves.T).sum((1, 2)).argmax() == 4
    assert float(binomial().sum()) == 1


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (1, 28, 28), (2, 9, 15)])
def test_maps_are_a_quarter_of_the_image(shape: tuple[int, int, int]) -> None:
    x = torch.rand(4, *shape)
    maps = Scattering(shape[0])(x)
    assert maps.shape == (4, CHANNELS * shape[0], shape[1] // 4, shape[2] // 4)
    torch.testing.assert_close(Scattering(shape[0])(x[2:3]), maps[2:3], atol=1e-4, rtol=1e-4)


def test_nothing_of_it_learns_or_is_drawn() -> None:
    module = Scattering(1)
    assert not list(module.parameters())
    assert not module.state_dict()
    one, other = (build_network("scattering", 10, (1, 8, 8), seed) for seed in (0, 1))
    x = torch.rand(3, 1, 8, 8)
    assert torch.equal(one.embed(x), other.embed(x))
    assert not torch.equal(one(x), other(x))


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_there_is_a_slope_on_flat_images_too(level: float) -> None:
    x = torch.full((2, 1, 8, 8), level).requires_grad_()
    (slope,) = torch.autograd.grad(build_network("scattering", 10, (1, 8, 8), 0)(x).sum(), x)
    assert slope.isfinite().all()


def test_the_slope_is_that_of_the_function() -> None:
    model = build_network("scattering", 3, (1, 8, 8), 0).double()
    x = torch.rand(1, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(model, x, atol=1e-4)


def test_a_linear_layer_on_it_beats_one_on_pixels() -> None:
    few = slice(0, 200)
    scored = []
    model = build_network("scattering", 10, (1, 8, 8), 0)
    for features in (lambda x: x.flatten(1), model.embed):
        with torch.no_grad():
            train, test = (
                features(as_float(images)).numpy()
                for images in (DIGITS.train_images[few], DIGITS.test_images)
            )
        fitted = LogisticRegression(max_iter=2000).fit(train, DIGITS.train_labels[few].numpy())
        scored.append(fitted.score(test, DIGITS.test_labels.numpy()))
    assert scored[1] > scored[0] + 0.01
