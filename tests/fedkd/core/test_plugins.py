"""Factories from outside: by entry point, and as package.module:function."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fedkd.core.plugins import entry_point_factory, entry_point_names, import_factory
from fedkd.errors import SettingsError
from fedkd.models import build_network
from fedkd.procedural import build_prior, named_prior, render
from fedkd.protocol import NamedPrior, Recipe

Offer = Callable[..., None]
MODULE = """
from dataclasses import dataclass
import torch
from torch import nn

@dataclass(frozen=True)
class Flat:
    grey: int = 7

    def draw(self, count, shape, rng):
        noise = torch.randint(0, 9, (count, *shape), generator=rng)
        return (noise + self.grey).to(torch.uint8)

def linear(classes, shape):
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes))

def nothing():
    return 3

number = 5
"""


@pytest.fixture
def offer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Offer:
    """Install a package that offers these entry points: group, name and object of `outside`."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "outside.py").write_text(MODULE)
    monkeypatch.delitem(sys.modules, "outside", raising=False)

    def install(group: str, name: str, target: str, package: str = "outside") -> None:
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{group}]\n{name} = outside:{target}\n")

    return install


def test_an_installed_package_offers_by_name(offer: Offer) -> None:
    offer("fedkd.models", "straight", "linear")
    assert "straight" in entry_point_names("fedkd.models")
    network = build_network("straight", 4, (1, 3, 3), seed=0)
    assert sum(p.numel() for p in network.parameters()) == 9 * 4 + 4
    again = build_network("straight", 4, (1, 3, 3), seed=0)
    pairs = zip(network.parameters(), again.parameters(), strict=True)
    assert all(bool((a == b).all()) for a, b in pairs)


def test_an_installed_prior_has_a_recipe_that_renders_the_same_samples(offer: Offer) -> None:
    offer("fedkd.priors", "flat", "Flat")
    prior = build_prior("flat", warp=0.5)
    source = named_prior(prior)
    assert source == NamedPrior("flat", 0.5, 0.0)
    assert render(Recipe(source, 3, 5), (1, 4, 4)).shape == (5, 1, 4, 4)


def test_a_name_from_the_wire_imports_no_module(offer: Offer) -> None:
    build_prior("outside:Flat", imports=True)
    with pytest.raises(SettingsError, match="unknown prior 'outside:Flat'"):
        build_prior("outside:Flat")
    with pytest.raises(SettingsError, match="unknown prior 'outside:Flat'"):
        render(Recipe(NamedPrior("outside:Flat"), 0, 1), (1, 4, 4))
    with pytest.raises(SettingsError, match="unknown model 'outside:linear'"):
        build_network("outside:linear", 2, (1, 2, 2), 0)


def test_a_prior_that_is_only_imported_has_no_recipe(offer: Offer) -> None:
    assert named_prior(build_prior("outside:Flat", imports=True)) is None


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("absent.module:f", "model 'absent.module:f' cannot be loaded: No module named 'absent'"),
        ("outside:absent", "has no attribute 'absent'; expected package.module:function"),
        ("outside:number", "model 'outside:number' is a int; expected a function"),
        ("outside:", "cannot be loaded"),
    ],
)
def test_what_cannot_be_loaded_says_why(offer: Offer, name: str, words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        import_factory("model", name)
    assert words in str(caught.value)


def test_a_factory_that_makes_something_else_is_told(offer: Offer) -> None:
    with pytest.raises(SettingsError, match=r"prior 'outside:nothing' is a int without draw"):
        build_prior("outside:nothing", imports=True)


def test_two_packages_that_offer_one_name_are_named(offer: Offer) -> None:
    offer("fedkd.models", "straight", "linear")
    offer("fedkd.models", "straight", "nothing", "elsewhere")
    with pytest.raises(SettingsError, match="outside:linear and outside:nothing"):
        entry_point_factory("fedkd.models", "straight")


def test_our_own_names_are_not_to_be_taken(offer: Offer) -> None:
    offer("fedkd.models", "mlp", "linear")
    assert type(build_network("mlp", 3, (1, 4, 4), 0)).__name__ == "Network"
