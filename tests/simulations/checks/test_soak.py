"""A short soak; long ones are a program."""

import json
from pathlib import Path

from fedkd.simulations.checks import soak


def test_a_short_soak_measures_the_hub_alone(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    assert soak.main(["--agents", "1", "--rounds", "20", "--json", str(file)]) == 0
    figures = json.loads(file.read_text())
    assert (figures["answers"], figures["absent"]) == (20, 0)
    assert figures["resident_mib"]["20"] > 10
