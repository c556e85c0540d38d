"""Variants of a comparison: every experiment with every method and every value of a sweep."""

import itertools
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from fedkd.errors import SettingsError
from fedkd.experiment import (
    Experiment,
    MethodSection,
    find_experiment,
    load_experiment,
    parse_experiment,
    read_toml,
)
from fedkd.methods import METHODS

EPSILON = "privacy.epsilon"
"""The key whose values form one line of the plot against epsilon."""
ABSENT = "none"
"""The value of a sweep that removes a key, such as ``privacy.epsilon``.

In quotation marks it is a string, as for ``method.curriculum``.
"""

PARTITION_SEED = "institutions.partition_seed"
RANDOM_PARTITIONS = ("iid", "dirichlet", "shards")
"""Partitions that a seed decides."""

METHOD_SECTIONS = ("policy", "images")
"""Sections that are taken together with the method of an experiment."""

Value: TypeAlias = tuple[str, str | None, str]
"""A key, its value as TOML (None for `ABSENT`), and its value in labels."""


@dataclass(frozen=True)
class Variant:
    """One row of a comparison: an experiment, perhaps with another method and other values."""

    label: str
    family: str
    """The label without epsilon: shared by variants that differ only in epsilon."""
    overrides: tuple[str, ...]
    """``section.key=value``, in order."""
    absent: tuple[str, ...]
    """Keys that are removed."""
    name: str
    """Of the experiment."""

    def experiment(self, seed: int, drawn: bool = False) -> Experiment:
        """Resolved.

        Args:
            seed: of the student and of the questions.
            drawn: whether the partition has that seed too, so that teachers differ as well.

        Raises:
            SettingsError: an unknown name or key, or a value out of range; a partition without a
                seed where it is to be drawn.
        """
        partition = [f"{PARTITION_SEED}={seed}"] if drawn else []
        found = load_experiment(self.name, [*self.overrides, f"seed={seed}", *partition])
        if drawn and (how := found.institutions.partition) not in RANDOM_PARTITIONS:
            raise SettingsError(
                f"--draws with institutions.partition {how!r}, which nothing is drawn for; use "
                "--seeds, by which the student alone differs"
            )
        if not self.absent:
            return found
        values = found.model_dump(mode="json")
        for key in self.absent:
            section, _, last = key.rpartition(".")
            values.get(section, {}).pop(last, None)
        return parse_experiment(values)

    def folder(self, seed: int) -> str:
        """Name of the folder of its run."""
        return re.sub(r"[^\w.=,-]+", "_", self.label) + f"-{seed}"


def variants(
    names: Sequence[str],
    methods: str | None = None,
    sweeps: Sequence[str] = (),
    overrides: Sequence[str] = (),
) -> list[Variant]:
    """Every experiment with every method and every value.

    Args:
        names: experiments, by path or name.
        methods: None for each experiment's own; else names with commas between them, or the path
            of a .toml file with a table for each: see `_methods`.
        sweeps: ``section.key=value,value,...``; of several, every combination.
        overrides: of all of them, ``section.key=value``; they stand above a method's arguments.

    Raises:
        SettingsError: a sweep or a file of methods that is none, or the same row twice.
    """
    methods_by_label = _methods(methods) if methods is not None else {"": []}
    axes = [_sweep(sweep) for sweep in sweeps]
    rows = [
        _row(name, method, [*of_method, *overrides], values)
        for name in names
        for method, of_method in methods_by_label.items()
        for values in itertools.product(*axes)
    ]
    folders = [row.folder(0) for row in rows]
    if twice := [row.label for row in rows if folders.count(row.folder(0)) > 1]:
        raise SettingsError(f"{twice[0]!r} stands twice in the comparison; name every row once")
    return rows


def _row(name: str, method: str, overrides: Sequence[str], values: Sequence[Value]) -> Variant:
    base = " ".join(part for part in (Path(name).stem, method) if part)
    assignments = [(key, f"{key.rpartition('.')[2]}={text}") for key, _, text in values]
    return Variant(
        " ".join([base, *(words for _, words in assignments)]),
        " ".join([base, *(words for key, words in assignments if key != EPSILON)]),
        (*overrides, *(f"{key}={text}" for key, text, _ in values if text is not None)),
        tuple(key for key, text, _ in values if text is None),
        name,
    )


def _sweep(sweep: str) -> list[Value]:
    """Each value of a sweep."""
    key, equals, text = sweep.partition("=")
    if not equals or not key or not text.strip():
        raise SettingsError(f"--sweep {sweep}: expected section.key=value,value,...")
    try:
        found: list[Any] = tomllib.loads(f"values = [{text}]")["values"]
    except tomllib.TOMLDecodeError:
        pieces = [piece.strip() for piece in text.split(",")]
        found = [None if piece == ABSENT else _parse_value(piece) for piece in pieces]
    return [
        (key, None, ABSENT) if value is None else (key, _to_toml(value), _to_text(value))
        for value in found
    ]


def _methods(given: str) -> dict[str, list[str]]:
    """Overrides that put each method in the place of an experiment's, by label.

    A name is that of a method, or of an experiment whose method it is to be, with what that has in
    sections `METHOD_SECTIONS`. A file has a table for each label. Its keys are the method's
    arguments, but for ``name``, which defaults to the label; a table within is a section of the
    experiment, of which it sets the keys that it names:

        [exact]
        name = "cudfkd"
        gradient = "pull_back"
        [exact.policy]
        pull_back = true
    """
    if not given.endswith(".toml"):
        tables: Mapping[str, Any] = {
            name.strip(): _method_of(name.strip()) for name in given.split(",")
        }
    else:
        tables = read_toml(Path(given))
    methods_by_label = {}
    for label, table in tables.items():
        if not label or not isinstance(table, Mapping):
            raise SettingsError(f"--methods {given}: expected names, or a file of tables")
        arguments = {key: value for key, value in table.items() if not isinstance(value, Mapping)}
        methods_by_label[label] = [f"method={_to_toml({'name': label, **arguments})}"] + [
            f"{section}.{key}={_to_toml(value)}"
            for section, values in table.items()
            if isinstance(values, Mapping)
            for key, value in values.items()
        ]
    return methods_by_label


def _method_of(name: str) -> Mapping[str, Any]:
    """The table of a method, or of an experiment: its method, what it asks for, and its images."""
    if not name or name in METHODS:
        return {}
    values = read_toml(find_experiment(name))
    sections = {section: values[section] for section in METHOD_SECTIONS if section in values}
    return {"name": MethodSection().name, **values.get("method", {}), **sections}


def _parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _to_toml(value: Any) -> str:
    if isinstance(value, Mapping):
        inner = ", ".join(
            f"{json.dumps(key, ensure_ascii=False)} = {_to_toml(item)}"
            for key, item in value.items()
        )
        return "{" + inner + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_to_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def _to_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
