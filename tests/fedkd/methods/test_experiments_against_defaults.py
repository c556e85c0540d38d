"""Where an experiment's method is not as its factory has it by default, as its paper has it."""

import inspect
import tomllib
from pathlib import Path
from typing import Any

from fedkd.methods import METHODS

ROOT = Path(__file__).resolve().parents[3]
EXPERIMENTS = ROOT / "simulations" / "experiments"

DIFFERENCES: dict[str, dict[str, Any]] = {
    "cmi": {"steps_per_batch": (20, 200), "generator_rate": (3e-3, 1e-3), "flips": (False, True)},
    "co_boosting": {"steps_per_batch": (15, 30), "generator_rate": (4e-3, 1e-3)},
    "deepinversion": {"steps_per_batch": (20, 2000), "flips": (False, True)},
    "dense": {"steps_per_batch": (20, 30), "generator_rate": (5e-3, 1e-3)},
    "dfme": {"generator_rate": (1e-3, 1e-4)},
    "disguide": {"generator_steps": (10, 1), "generator_rate": (1e-3, 1e-4)},
    "fast_dfkd": {"bn_weight": (1.0, 10.0), "flips": (False, True)},
    "hidfd": {
        "generator_rate": (1e-3, 2e-4),
        "discriminator_rate": (1e-3, 2e-4),
        "averaging_from": (0, 1000),
    },
    "pre_dfkd": {
        "replay_steps": (4, 1),
        "replay_rate": (3e-3, 5e-4),
        "generator_rate": (3e-3, 1e-3),
    },
    "rdskd": {"capture_interval": (10, 120)},
    "zskd": {"steps_per_batch": (20, 1500), "generator_rate": (0.05, 1e-3)},
}
"""By method of ``digits-METHOD``: argument -> (of the experiment, by default)."""


def differences(name: str) -> dict[str, tuple[Any, Any]]:
    """Argument -> (of ``digits-NAME``, by default), where they differ."""
    given = dict(tomllib.loads((EXPERIMENTS / f"digits-{name}.toml").read_text())["method"])
    defaults = inspect.signature(METHODS[given.pop("name")]).parameters
    return {
        key: (value, defaults[key].default)
        for key, value in given.items()
        if value != defaults[key].default
    }


def papers() -> list[str]:
    """Methods that have an experiment of their own on digits; ours have been tuned on them."""
    found = {path.stem.removeprefix("digits-") for path in EXPERIMENTS.glob("digits-*.toml")}
    return sorted(found & METHODS.keys() - {"cudfkd"})


def test_experiments_differ_from_their_papers_in_what_is_listed_and_nothing_else() -> None:
    assert {name: differences(name) for name in papers() if differences(name)} == DIFFERENCES


def test_the_page_of_results_lists_each_difference() -> None:
    page = (ROOT / "docs" / "results" / "methods.md").read_text()
    table = page[page.index("| experiment | not as its factory has it by default |") :]
    for name, found in DIFFERENCES.items():
        row = next(r for r in table.splitlines() if r.startswith(f"| `digits-{name}` |"))
        for argument, (here, default) in found.items():
            assert f"`{argument}` {shown(here)} for {shown(default)}" in row, (name, argument)


def shown(value: object) -> str:
    """As the page writes it."""
    return f"{value:g}" if isinstance(value, float) else str(value).lower()
