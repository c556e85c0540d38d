"""The drawing of reproductions, and rows of their table."""

import json
from pathlib import Path
from typing import Any

import pytest

from fedkd.simulations.reproduction.curves import draw_curves, main, rows_of


def result(method: str, published: float | None) -> dict[str, Any]:
    return {
        "method": method,
        "networks": "lenet5 to lenet5-half",
        "figure": 91.25,
        "best": 92.0,
        "published": published,
        "rounds": 30,
        "rounds_of_paper": 2000,
        "samples": 46_080,
        "cpu_seconds": 12.4,
        "curve": [[10, 15_360, 50.0], [20, 30_720, 92.0], [30, 46_080, 91.25]],
    }


def test_a_row_has_the_figures_and_the_share_of_the_paper() -> None:
    row, other = rows_of([result("dfad", 98.3), result("zskt", None)])
    for part in ("`dfad`", "30 of 2,000 (1.5 %)", "46,080", "| 91.2 | 92.0 | 98.30 |"):
        assert part in row
    assert other.endswith("| none |")


def test_a_panel_has_its_curve_and_the_published_figure() -> None:
    canvas = draw_curves([result("dfad", 98.3), result("zskt", None)])
    first, second, *blank = canvas.axes
    assert [axes.get_title() for axes in (first, second)] == ["dfad", "zskt"]
    assert len(first.lines) == 2
    assert len(second.lines) == 1
    assert list(second.lines[-1].get_ydata()) == [50.0, 92.0, 91.25]  # type: ignore[arg-type]
    assert not any(axes.get_visible() for axes in blank)


def test_the_command_reads_what_reproduce_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, drawing = tmp_path / "dfad.json", tmp_path / "curves.svg"
    file.write_text(json.dumps(result("dfad", 98.3)))
    main([str(file), "--svg", str(drawing)])
    assert capsys.readouterr().out.startswith("| `dfad` |")
    once = drawing.read_bytes()
    assert b"<svg" in once
    main([str(file), "--svg", str(drawing)])
    assert drawing.read_bytes() == once
