"""Load experiments from TOML files: find by name, apply overrides, validate."""

import tomllib
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fedkd.errors import SettingsError
from fedkd.experiment.sections import Experiment, MethodSection
from fedkd.experiment.toml_settings import did_you_mean, read_toml, validate_settings

SHIPPED_FOLDER = Path(__file__).parents[1] / "simulations" / "experiments"
"""Experiments that ship with fedkd, available by name."""

METHOD_NAME = "method.name"


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

    Values of overrides are TOML; what is not TOML is taken as a string. Where an override names
    another method than the file, the file's arguments of its method are dropped, with a warning.

    Raises:
        SettingsError: unreadable, an unknown key, or a value out of range.
    """
    path = find_experiment(name)
    values = read_toml(path)
    values.setdefault("name", path.stem)
    overrides = list(overrides)
    _drop_other_arguments(values, overrides)
    for override in overrides:
        _override(values, override)
    return parse_experiment(values)


def parse_experiment(values: Mapping[str, Any]) -> Experiment:
    """An experiment from nested tables.

    Raises:
        SettingsError: naming the first thing that is wrong and the did_you_mean right key.
    """
    return validate_settings(Experiment, values)


def _drop_other_arguments(values: dict[str, Any], overrides: Iterable[str]) -> None:
    """Leave out the arguments of the file's method where the overrides name another method."""
    method = values.get("method")
    named = [value for key, value in map(_parse, overrides) if key == METHOD_NAME]
    if not named or not isinstance(method, dict):
        return
    before = method.get("name", MethodSection().name)
    dropped = [key for key in method if key != "name"]
    if named[-1] == before or not dropped:
        return
    values["method"] = {}
    warnings.warn(
        f"{METHOD_NAME}={named[-1]}: left out what the file sets for {before}: "
        f"{', '.join(f'{key} = {method[key]!r}' for key in dropped)}",
        UserWarning,
        stacklevel=3,
    )


def _parse(override: str) -> tuple[str, Any]:
    """Key and value of an override."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise SettingsError(f"--set {override}: expected section.key=value")
    try:
        return key, tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return key, text


def _override(values: dict[str, Any], override: str) -> None:
    key, value = _parse(override)
    *path, last = key.split(".")
    table = values
    for part in path:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise SettingsError(f"--set {override}: {part} is not a section")
    table[last] = value
