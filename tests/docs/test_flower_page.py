"""The app on docs/flower.md, run with `flwr run` as its reader would."""

import json
import re
from pathlib import Path

from fedkd.simulations.rehearsal.flwr_run import run_app

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "flower.md"
FILE = re.compile(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", re.DOTALL)


def test_the_app_runs_as_it_stands(tmp_path: Path) -> None:
    app, out = tmp_path / "app", tmp_path / "out"
    for name, text in FILE.findall(PAGE.read_text()):
        (app / name).parent.mkdir(parents=True, exist_ok=True)
        (app / name).write_text(text)
    assert len((app / "digits_app" / "client_app.py").read_text().splitlines()) <= 5
    run_config = {"budget": 640, "steps": 150, "rounds": 2, "out": str(out)}
    assert run_app(app, 2, run_config) is None
    result = json.loads((out / "result.json").read_text())
    assert [teacher["name"] for teacher in result["teachers"]] == ["institution-0", "institution-1"]
    assert [teacher["samples_asked"] for teacher in result["teachers"]] == [640, 640]
    assert result["student"]["accuracy"] > 0.4, "both nodes evaluated a student of no known name"
    assert result["student"]["held_back"]["count"] > 3
    assert result["classes"] == [str(digit) for digit in range(10)]
