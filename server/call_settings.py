"""Settings of a run that is called from Python: an experiment, and a student of the caller's."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from torch import nn

from fedkd.errors import SettingsError
from fedkd.experiment import Experiment, load_experiment, parse_experiment
from fedkd.models import Shape
from fedkd.server.coordinator import StudentFactory

Settings: TypeAlias = Mapping[str, Any] | str | Path | None
"""Nested tables as in an experiment's TOML, the path of such a file, or the name of one."""

OWN_STUDENT = "own"
"""Recorded as ``student.model`` where the student is no network of fedkd's."""


@dataclass(frozen=True)
class Arguments:
    """Arguments that stand for keys of an experiment; None: the experiment's, or its default."""

    seed: int | None = None
    method: str | None = None
    budget: int | None = None
    steps: int | None = None


def experiment_of(
    settings: Settings,
    arguments: Arguments,
    student: object,
    count: int | None,
    address: str | None = None,
) -> Experiment:
    """The experiment.

    Args:
        settings: of all that no argument says.
        arguments: count more than the settings.
        student: a name is that of a network.
        count: of institutions; None: as in the settings.
        address: of the hub; None: as in the settings.

    Raises:
        SettingsError: an unknown key, or a value out of range.
    """
    values = _tables(settings)
    values.setdefault("name", "fit")
    given = {
        ("questions", "budget"): arguments.budget,
        ("student", "steps"): arguments.steps,
        ("student", "model"): student if isinstance(student, str) else OWN_STUDENT,
        ("institutions", "count"): count,
        ("questions", "address"): address,
    }
    if arguments.seed is not None:
        values["seed"] = arguments.seed
    if arguments.method is not None:
        values["method"] = {"name": arguments.method}  # what another's arguments are is not known
    for (section, key), value in given.items():
        if value is not None:
            values[section] = {**values.get(section, {}), key: value}
    return parse_experiment(values)


def student_factory(student: nn.Module | StudentFactory | str) -> StudentFactory | None:
    """What makes the student; None where the experiment names it.

    A module is copied: more than one is built where institutions turn out not to fit.

    Raises:
        SettingsError: it is no student.
    """
    if isinstance(student, str):
        return None
    if isinstance(student, nn.Module):
        module = student

        def copied(classes: int, shape: Shape) -> nn.Module:
            del classes, shape
            return copy.deepcopy(module)

        return copied
    if callable(student):
        return student
    raise SettingsError(
        f"a student of type {type(student).__name__}; expected an nn.Module, the name of a "
        "network, or a function of the number of classes and the shape"
    )


def _tables(settings: Settings) -> dict[str, Any]:
    if settings is None:
        return {}
    if isinstance(settings, Mapping):
        return copy.deepcopy(dict(settings))
    return load_experiment(str(settings)).model_dump(exclude_unset=True)
