"""The list of methods: complete, and whole on a page of 100 columns."""

import inspect

import pytest

from fedkd.errors import SettingsError
from fedkd.methods import METHODS, make, ways
from fedkd.simulations import method_list


def test_every_method_is_listed_with_its_gradients_and_its_paper(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(method_list.console, "width", 100)
    method_list.print_methods()
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    rows = [line.split("│")[1:] for line in lines if line.startswith("│")]
    listed: dict[str, list[str]] = {}
    for name, way, *_ in rows:
        listed.setdefault(name.strip() or list(listed)[-1], []).append(way.strip())
    assert {name: tuple(filter(None, each)) for name, each in listed.items()} == {
        name: (*ways(name), *([f"{ways(name)[0]}, alone"] if make(name, {}).alone else []))
        for name in METHODS
    }
    assert "pull_back, alone" in listed["cmi"]
    for name in METHODS:
        assert any(line.startswith(name) and make(name, {}).paper in line for line in lines)


def test_each_gradient_has_what_it_asks_for_and_what_that_discloses(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(method_list.console, "width", 200)
    method_list.print_methods()
    rows = [line.split("│")[1:-1] for line in capsys.readouterr().out.splitlines() if "│" in line]
    rows_by_gradient = {
        way.strip(): (asks, discloses) for _, way, asks, discloses in rows if asks.strip()
    }
    asks, discloses = rows_by_gradient["pull_back"]
    assert "gradients (pull_back)" in asks
    assert "how scores change with pixels" in discloses
    asks, discloses = rows_by_gradient["finite_differences"]
    assert "2 questions a sample" in asks
    assert "roughly" in discloses
    plain = {
        (asks.strip(), discloses.strip())
        for _, way, asks, discloses in rows
        if way.strip() == "none"
    }
    assert {
        ("logits", "class scores of synthesised samples"),
        ("logits", "class scores of public samples"),
    } <= plain


def test_one_method_is_shown_with_its_equations_departures_and_arguments(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in METHODS:
        method_list.print_method(name)
        out = capsys.readouterr().out
        module = inspect.getmodule(METHODS[name])
        assert inspect.getdoc(module).splitlines()[0] in out  # type: ignore[union-attr]
        for parameter in inspect.signature(METHODS[name]).parameters:
            assert f"{parameter} = " in out
    method_list.print_method("cudfkd")
    out = capsys.readouterr().out
    assert "v(l; lambda) = (1 + e^-lambda) / (1 + e^(l - lambda))" in out
    assert "adversarial_stop = 62.0" in out
    assert "Departures" in out


def test_an_unknown_method_is_named_in_one_line() -> None:
    with pytest.raises(SettingsError, match="cudfdk"):
        method_list.print_method("cudfdk")
