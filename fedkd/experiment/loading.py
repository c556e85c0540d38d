"""Experiments loaded from TOML files: found by name, overridden from the command line, validated."""

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fedkd.errors import SettingsError
from fedkd.experiment.sections import Experiment
from fedkd.experiment.toml_settings import did_you_mean, read_toml, validate_settings

SHIPPED_FOLDER = Path(__file__).parents[1] / "simulations" / "experiments"
"""Experiments that can be had by name."""


def find_experiment(name: str) -> Path:
    """The file of an experiment, given as a path or by the name of one that ships with fedkd.

    Raises:
        SettingsError: there is none; the message names the did_you_mean.
    """
    path = Path(name)
    if path.suffix == ".toml" or path.is_file():
        if not path.is_file():
            raise SettingsError(f"no experiment at {name}; give a .toml file, or a name")
        return path
    shipped = sorted(p.stem for p in SHIPPED_FOLDER.glob("*.toml"))
    if name not in shipped:
        raise SettingsError(
            f"no experiment called {name!r}{did_you_mean(name, shipped)}; give the path of a .toml "
            f"file, or one of {', '.join(shipped)}"
        )
    return SHIPPED_FOLDER / f"{name}.toml"


def load_experiment(name: str, overrides: Iterable[str] = ()) -> Experiment:
    """Read an experiment and apply overrides of the form ``section.key=value``.

    Values of overrides are TOML; what is not TOML is taken as a string.

    Raises:
        SettingsError: unreadable, an unknown key, or a value out of range.
    """
    path = find_experiment(name)
    values = read_toml(path)
    values.setdefault("name", path.stem)
    for override in overrides:
        _override(values, override)
    return parse_experiment(values)


def parse_experiment(values: Mapping[str, Any]) -> Experiment:
    """An experiment from nested tables.

    Raises:
        SettingsError: naming the first thing that is wrong and the did_you_mean right key.
    """
    return validate_settings(Experiment, values)


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise SettingsError(f"--set {override}: expected section.key=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *path, last = key.split(".")
    table = values
    for part in path:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise SettingsError(f"--set {override}: {part} is not a section")
    table[last] = value
