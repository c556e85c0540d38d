"""Networks of timm and torchvision with fresh weights, as students and as teachers."""

from pathlib import Path

import pytest
import torch

from fedkd.errors import SettingsError
from fedkd.experiment import load_experiment
from fedkd.models import build_network
from fedkd.simulations.run import run

COLOUR = (3, 32, 32)
NAMES = ("timm:mobilenetv3_small_050", "timm:vit_tiny_patch16_224", "torchvision:squeezenet1_1")


@pytest.mark.parametrize("name", NAMES)
def test_a_network_has_the_classes_and_reads_the_shape(name: str) -> None:
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    shape = (1, 32, 48) if name.startswith("timm:") else COLOUR
    network = build_network(name, 7, shape, seed=3, imports=True).eval()
    assert network(torch.rand(2, *shape)).shape == (2, 7)


@pytest.mark.parametrize("name", ["timm:mobilenetv3_small_050", "torchvision:squeezenet1_1"])
def test_weights_depend_on_the_seed_alone(name: str) -> None:
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    before = torch.random.get_rng_state()
    one, same, other = (build_network(name, 4, COLOUR, seed, imports=True) for seed in (0, 0, 1))
    pairs = [(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True)]
    assert all(bool((a == b).all()) for a, b in pairs)
    changed = zip(one.parameters(), other.parameters(), strict=True)
    assert any(bool((a != b).any()) for a, b in changed)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("timm:mobilenetv4_smal", COLOUR, "timm has no network 'mobilenetv4_smal'; see "),
        ("torchvision:resnet81", COLOUR, "torchvision has no classifier 'resnet81'; see resnet18"),
        ("torchvision:resnet18", (1, 8, 8), "reads images of 3 channels, and these have 1"),
    ],
)
def test_what_there_is_not_is_named(name: str, shape: tuple[int, int, int], message: str) -> None:
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    with pytest.raises(SettingsError, match=message):
        build_network(name, 3, shape, 0, imports=True)


def test_a_name_that_came_over_the_wire_opens_no_library() -> None:
    for name in NAMES:
        with pytest.raises(SettingsError, match="unknown model"):
            build_network(name, 3, COLOUR, 0)


def test_a_student_and_teachers_of_timm_in_a_run(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    name = "timm:test_resnet"  # timm's own, of some thousand parameters
    settings = {
        "student.model": name,
        "institutions.models": f'["{name}"]',
        "institutions.count": 2,
        "institutions.epochs": 1,
        "student.steps": 2,
        "questions.budget": 64,
    }
    experiment = load_experiment("digits", [f"{key}={value}" for key, value in settings.items()])
    result = run(experiment, "local", tmp_path / "run")
    assert result["student"]["model"] == name
    assert [teacher["model"] for teacher in result["teachers"]] == [name, name]
