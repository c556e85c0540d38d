"""The drawing of reproductions, and rows of their table."""

import json
from pathlib import Path
from typing import Any

import pytest

from fedkd.simulations.reproduction.curves import by_regime, draw_curves, main, rows_of


def result(
    method: str, published: float | None, seed: int = 0, rounds: int = 30, figure: float = 91.25
) -> dict[str, Any]:
    return {
        "method": method,
        "data": "torchvision:MNIST",
        "scored": "test",
        "seed": seed,
        "teacher": 99.0 + seed / 10,
        "networks": "lenet5 to lenet5-half",
        "figure": figure,
        "best": 92.0,
        "published": published,
        "rounds": rounds,
        "rounds_of_paper": 2000,
        "samples": 1_536 * rounds,
        "cpu_seconds": 12.4,
        "curve": [[10, 15_360, 50.0], [20, 30_720, 92.0], [rounds, 1_536 * rounds, figure]],
    }


def test_a_row_has_the_figures_and_the_share_of_the_paper() -> None:
    row, other = rows_of(by_regime([result("dfad", 98.3), result("zskt", None)]))
    for part in ("`dfad`", "30 of 2,000 (1.5 %)", "46,080", "| 91.2 | 0: 91.2 | 92.0 | 98.30 |"):
        assert part in row
    assert other.endswith("| none |")


def test_seeds_of_one_regime_are_one_row_of_means_and_their_deviation() -> None:
    seeds = [result("dfad", 98.3, seed, figure=80.0 + 4 * seed) for seed in (2, 0, 1)]
    (row,) = rows_of(by_regime(seeds))
    assert "| 99.1 | 84.0 ± 4.0 | 0: 80.0, 1: 84.0, 2: 88.0 | 92.0 |" in row


def test_another_number_of_rounds_is_another_row() -> None:
    assert len(by_regime([result("dfad", None), result("dfad", None, rounds=60)])) == 2


def test_a_seed_that_is_given_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="seed 0 of dfad was given twice"):
        by_regime([result("dfad", None), result("dfad", None)])


def test_a_panel_has_a_curve_for_each_seed_and_the_published_figure() -> None:
    seeds = [result("dfad", 98.3), result("zskt", None), result("dfad", 98.3, seed=1)]
    canvas = draw_curves(by_regime(seeds))
    first, second, *blank = canvas.axes
    assert [axes.get_title() for axes in (first, second)] == ["dfad", "zskt"]
    assert len(first.lines) == 3
    assert len(second.lines) == 1
    assert list(second.lines[-1].get_ydata()) == [50.0, 92.0, 91.25]  # type: ignore[arg-type]
    assert not any(axes.get_visible() for axes in blank)


def test_the_command_reads_what_reproduce_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, drawing = tmp_path / "dfad.json", tmp_path / "curves.svg"
    file.write_text(json.dumps(result("dfad", 98.3)))
    main([str(file), "--svg", str(drawing)])
    assert "| `dfad` |" in capsys.readouterr().out
    once = drawing.read_bytes()
    assert b"<svg" in once
    main([str(file), "--svg", str(drawing)])
    assert drawing.read_bytes() == once


def test_a_file_that_is_named_twice_ends_the_command_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "dfad.json"
    file.write_text(json.dumps(result("dfad", 98.3)))
    with pytest.raises(SystemExit):
        main([str(file), str(file)])
    assert "name each run once" in capsys.readouterr().err
