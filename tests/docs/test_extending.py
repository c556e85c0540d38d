"""docs/extending.md, installed as a package of somebody else's and run as its reader would."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fedkd.simulations.checks.resume import kill_and_resume
from tests.support.forked_cli import fedkd

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "extending.md"
FILE = re.compile(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", re.DOTALL)
SMALL = ("--set", "questions.budget=640", "--set", "student.steps=60")


class World:
    """A folder with the page's files, its package installed beside fedkd and not into it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.site = folder, folder / "site"
        package = folder / "package"
        for name, text in FILE.findall(PAGE.read_text()):
            path = package / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (package / "my_distillation" / "__init__.py").write_text("")
        (folder / "work").mkdir()
        (package / "bars.toml").rename(folder / "work" / "bars.toml")
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation"]
        pip += ["--no-index", "--target", str(self.site), str(package)]
        done = subprocess.run(pip, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr

    def run(self, *words: str, installed: bool = True) -> str:
        """What `fedkd` prints in the working directory of somebody who installed the package."""
        return fedkd(words, self.folder / "work", site=self.site if installed else None)

    def student(self, name: str) -> bytes:
        return (self.folder / "work" / name / "student.safetensors").read_bytes()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    pytest.importorskip("setuptools")
    return World(tmp_path_factory.mktemp("outside"))


@pytest.fixture(scope="module")
def local(world: World) -> dict[str, object]:
    """The result of the page's experiment, small, in one process."""
    world.run("run", "bars.toml", *SMALL, "--out", "local")
    result: dict[str, object] = json.loads(
        (world.folder / "work" / "local" / "result.json").read_text()
    )
    return result


def test_the_method_is_listed_with_what_it_asks(world: World) -> None:
    listed = world.run("methods")
    assert "least_margin" in listed
    assert "cudfkd" in listed


def test_it_runs_in_one_process_and_its_source_asked(
    world: World, local: dict[str, object]
) -> None:
    assert local["method"] == "least_margin"
    events = (world.folder / "work" / "local" / "events.jsonl").read_text().splitlines()
    asked = [event for line in events if (event := json.loads(line))["kind"] == "asked"]
    assert {event["origin"] for event in asked} == {"stripes", "levels"}
    assert asked[-1]["narrowest_margin"] < 0.5


def test_as_the_page_has_it_the_student_learns(world: World) -> None:
    world.run("run", "bars.toml", "--out", "whole")
    result = json.loads((world.folder / "work" / "whole" / "result.json").read_text())
    assert result["ensemble"]["accuracy"] > 0.9
    assert result["student"]["accuracy"] > 0.9, "chance is a quarter"


def test_it_runs_in_flowers_simulation_and_makes_the_same_student(
    world: World, local: dict[str, object]
) -> None:
    world.run("run", "bars.toml", *SMALL, "--engine", "simulation", "--out", "simulated")
    assert world.student("simulated") == world.student("local")
    teachers = json.loads((world.folder / "work" / "simulated" / "result.json").read_text())[
        "teachers"
    ]
    pixels = 640 * 64
    assert all(t["bytes_sent"] < pixels / 2 for t in teachers)  # stripes travelled as recipes


def test_it_runs_by_module_and_function_where_nothing_is_installed(
    world: World, local: dict[str, object]
) -> None:
    work = world.folder / "work"
    if not (work / "my_distillation").exists():
        (work / "my_distillation").symlink_to(world.folder / "package" / "my_distillation")
    words = ["--set", "method.name=my_distillation.method:least_margin"]
    words += ["--set", 'images.priors=["my_distillation.prior:Stripes","levels"]']
    words += ["--set", "student.model=my_distillation.network:two_layers"]
    world.run("run", "bars.toml", *SMALL, *words, "--out", "modules", installed=False)
    assert (work / "modules" / "report.html").exists()


def test_killed_and_resumed_it_makes_the_same_student(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(world.folder / "work")
    monkeypatch.syspath_prepend(str(world.site))
    words = ["bars.toml", "--checkpoint", "0.2", *SMALL]
    trials = list(kill_and_resume(words, tmp_path, kills=2, kills_per_run=2))
    assert sum(trial.kills for trial in trials) == 2
    assert all(trial.same_student and trial.same_events for trial in trials), trials
