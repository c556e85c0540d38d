"""Networks of every name read images of many sizes, and depend on their seed alone."""

import pytest
import torch

from fedkd.errors import SettingsError
from fedkd.models import MODELS, Network, build_network
from fedkd.models.architectures import Normalisation
from fedkd.protocol import as_float

LEAST = {"lenet5": 16, "lenet5-half": 16}
"""Smallest side, where it is not 8."""


def noise(shape: tuple[int, int, int], count: int = 3) -> torch.Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_the_head_of_the_features(name: str) -> None:
    side = LEAST.get(name, 8)
    for shape in ((1, side, side), (3, side + 5, side + 12), (1, 28, 28), (3, 32, 32)):
        model = build_network(name, 7, shape, 0).eval()
        x = noise(shape)
        with torch.no_grad():
            features = model.embed(x)
            assert features.dim() == 2
            assert model(x).shape == (3, 7)
            assert torch.equal(model(x), model.head(features))


@pytest.mark.parametrize("name", MODELS)
def test_an_image_is_judged_alone_in_evaluation(name: str) -> None:
    model = build_network(name, 4, (1, 16, 16), 0)
    x = noise((1, 16, 16), 8)
    if any(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules()):
        assert not torch.allclose(model(x)[:2], model(x[:2]), atol=1e-4)
    model.eval()
    torch.testing.assert_close(model(x)[:2], model(x[:2]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "shape", "parameters"),
    [
        ("lenet5", (1, 28, 28), 61_706),
        ("lenet5", (1, 32, 32), 61_706),
        ("resnet18", (3, 32, 32), 11_173_962),
        ("resnet34", (3, 32, 32), 21_282_122),
        ("resnet9", (3, 32, 32), 6_573_130),
    ],
)
def test_sizes_are_those_of_the_literature(
    name: str, shape: tuple[int, int, int], parameters: int
) -> None:
    assert sum(p.numel() for p in build_network(name, 10, shape, 0).parameters()) == parameters


def test_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, again, other = (build_network("cnn", 10, (1, 8, 8), seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected), "the global generator was moved"
    assert torch.equal(one.head.weight, again.head.weight)
    assert not torch.equal(one.head.weight, other.head.weight)


def test_normalisation_is_inside() -> None:
    assert Normalisation()(torch.tensor([0.0, 0.5, 1.0])).tolist() == [-1, 0, 1]
    plain = Network(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    x = noise((1, 2, 2))
    torch.testing.assert_close(plain(x), plain.head(2 * x.flatten(1) - 1))


def test_images_become_floats_in_the_unit_interval() -> None:
    assert as_float(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist() == pytest.approx(
        [0, 0.2, 1]
    )
    assert as_float(torch.tensor([0.25], dtype=torch.float64)).dtype == torch.float32
    assert float(as_float(torch.tensor([0.25]))) == 0.25


def test_an_unknown_model_names_the_nearest() -> None:
    with pytest.raises(SettingsError, match="did you mean resnet18"):
        build_network("resnet-18", 10, (3, 32, 32), 0)


@pytest.mark.parametrize(
    ("name", "classes", "shape"),
    [("lenet5", 10, (1, 15, 28)), ("cnn", 10, (1, 1, 8)), ("mlp", 0, (1, 8, 8))],
)
def test_what_cannot_be_built_is_refused(
    name: str, classes: int, shape: tuple[int, int, int]
) -> None:
    with pytest.raises(SettingsError):
        build_network(name, classes, shape, 0)
