"""The list of methods: complete, and whole on a page of 100 columns."""

import pytest

from fedkd.methods import METHODS, make, ways
from fedkd.simulations import method_list as catalogue


def test_every_method_stands_there_with_its_gradients_and_its_paper(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue.console, "width", 100)
    catalogue.print_methods()
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    rows = [line.split("│")[1:] for line in lines if line.startswith("│")]
    told: dict[str, list[str]] = {}
    for name, way, *_ in rows:
        told.setdefault(name.strip() or list(told)[-1], []).append(way.strip())
    assert {name: tuple(filter(None, each)) for name, each in told.items()} == {
        name: ways(name) for name in METHODS
    }
    for name in METHODS:
        assert any(line.startswith(name) and make(name, {}).paper in line for line in lines)


def test_what_is_asked_and_disclosed_is_said_of_each_gradient(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue.console, "width", 200)
    catalogue.print_methods()
    rows = [line.split("│")[1:-1] for line in capsys.readouterr().out.splitlines() if "│" in line]
    said = {way.strip(): (asks, discloses) for _, way, asks, discloses in rows if asks.strip()}
    asks, discloses = said["pull_back"]
    assert "gradients (pull_back)" in asks
    assert "how scores change with pixels" in discloses
    asks, discloses = said["finite_differences"]
    assert "2 questions a sample" in asks
    assert "roughly" in discloses
    asks, discloses = said["none"]
    assert (asks.strip(), discloses.strip()) == ("logits", "class scores of synthesised samples")
