"""Specification of an external teacher, as the owner writes it. Opens nothing, imports no torch.

The ``[teacher]`` table of an owner's TOML has the fields of `TeacherSpec`, by their names.
"""

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from fedkd.errors import SettingsError


@dataclass(frozen=True)
class TeacherSpec:
    """An external teacher. Every format takes some of the later fields, and refuses the rest.

    Raises:
        SettingsError: a value out of range, or two that do not go together.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    source: str
    """PREFIX:REST; prefixes are the keys of `fedkd.client.vault.teachers.formats.FORMATS`."""
    shape: tuple[int, int, int] = (0, 0, 0)
    """(C, H, W) of the images that it reads. Nothing is resized or recoloured for it."""
    weights: Path | None = None
    """A .safetensors file."""
    classes: int = 0
    """K, >= 1; 0 for as many as ``class_names`` has."""
    class_names: tuple[str, ...] | None = None
    """(K,) names of its outputs, in their order."""
    tasks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """In place of ``classes`` and ``class_names``, where a federation has several tasks: names of
    classes by name of each task that it answers, whose outputs stand side by side in this order."""
    mean: tuple[float, ...] | None = None
    """(C,): it is given (image - mean) / std, where images are in [0, 1]."""
    std: tuple[float, ...] | None = None
    """(C,), > 0; given exactly where ``mean`` is."""
    outputs: Literal["logits", "probabilities", "embedding"] = "logits"
    """What the teacher gives. The logarithm is taken of probabilities; an embedding is ``classes``
    wide, and means nothing but how alike samples are."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the architecture, or of the owner's factory."""
    trusted: bool = False
    """The owner states that a file whose loader may run code is his own."""
    trusted_types: tuple[str, ...] = ()
    """Types that a skops file may build, beyond those that skops trusts."""
    memory: float | None = None
    """GiB that opening the file, and each session of onnxruntime, may take; None for three quarters
    of what the machine has."""
    input_name: str | None = None
    """Which input the images go to; None where there is only one."""
    output_name: str | None = None
    """Which output has the scores; None where there is only one."""
    batch: int = 256
    """Most images in one request to an inference server, >= 1."""
    timeout: float = 30.0
    """Seconds after which a request to an inference server is given up, > 0."""
    insecure: bool = False
    """Whether plain http may go to another machine."""
    ca: Path | None = None
    """CA certificates for an inference server; None for those of the system."""
    schema: Path | None = None
    """In place of shape and classes, where it reads rows of a table: a TOML file with the columns
    and what is predicted, see `fedkd.data.table_schema`. All of it is disclosed on the card."""
    folder: Path = Path()
    """Base of relative paths."""

    def __post_init__(self) -> None:
        kind, colon, rest = self.source.partition(":")
        if not (kind and colon and rest):
            raise SettingsError(f"source {self.source!r}; expected PREFIX:WHAT, as in onnx:FILE")
        if self.outputs == "embedding" and (self.schema or self.class_names):
            raise SettingsError(
                'outputs = "embedding" beside a schema or class_names; give shape, and the width '
                "of the embedding as classes"
            )
        if self.schema is not None:
            self._check_table()
        elif min(self.shape) < 1:
            raise SettingsError(
                f"shape {list(self.shape)}; expected [C, H, W], each 1 or more, or for rows of a "
                "table a schema"
            )
        else:
            self._name_classes()
        self._check_normalisation()
        if self.memory is not None and not 0 < self.memory < math.inf:
            raise SettingsError(f"memory {self.memory}; expected GiB, more than 0")
        if self.batch < 1 or not 0 < self.timeout < math.inf:
            raise SettingsError(
                f"batch {self.batch}, timeout {self.timeout}; expected 1 or more images and "
                f"more than 0 seconds"
            )

    def _check_table(self) -> None:
        if self.mean is not None or self.std is not None:
            raise SettingsError(
                "mean and std are of images, and rows come in their own units; take them away"
            )

    def _check_normalisation(self) -> None:
        if (self.mean is None) != (self.std is None):
            raise SettingsError("mean without std, or std without mean; give both or neither")
        for values in (self.mean, self.std):
            if values is not None and len(values) != self.shape[0]:
                raise SettingsError(
                    f"{len(values)} numbers for {self.shape[0]} channels in mean or std; give "
                    f"one for each channel"
                )
        if any(not math.isfinite(m) for m in self.mean or ()):
            raise SettingsError(f"mean {list(self.mean or ())}; expected finite numbers")
        if any(not 0 < s < math.inf for s in self.std or ()):
            raise SettingsError(f"std {list(self.std or ())}; expected numbers above 0")

    def _name_classes(self) -> None:
        if self.tasks:
            self._name_tasks()
            return
        names = self.class_names
        if names is not None and (not all(names) or len(set(names)) < len(names)):
            raise SettingsError("class_names has an empty name, or one twice; give each its own")
        if names is not None and self.classes == 0:
            object.__setattr__(self, "classes", len(names))  # of a frozen value, before it is seen
        if self.classes < 1 or (names is not None and len(names) != self.classes):
            raise SettingsError(
                f"{self.classes} classes and {len(names or ())} class_names; give either, or both "
                f"alike"
            )

    def _name_tasks(self) -> None:
        from fedkd.protocol import named_tasks, output_names_of  # imports torch

        tasks = named_tasks(self.tasks)
        outputs = output_names_of(tasks)
        names = tasks[0].class_names if len(tasks) == 1 else outputs
        if self.class_names not in (None, names) or self.classes not in (0, len(outputs)):
            raise SettingsError("tasks beside classes or class_names; give tasks alone")
        object.__setattr__(self, "classes", len(outputs))  # of a frozen value, before it is seen
        object.__setattr__(self, "class_names", names)

    def path(self, name: str | Path) -> Path:
        """A file that the owner names, relative to his folder."""
        return self.folder.expanduser() / Path(name).expanduser()


def spec_from_table(table: Mapping[str, Any], folder: Path) -> TeacherSpec:
    """The ``[teacher]`` table of an owner's file.

    Args:
        table: as TOML gives it.
        folder: of that file; relative paths in the table start there.

    Raises:
        SettingsError: an unknown key, or a value of the wrong type or range.
    """
    known = [f.name for f in fields(TeacherSpec) if f.name != "folder"]
    for key in table:
        if key not in known:
            close = difflib.get_close_matches(key, known, 1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise SettingsError(
                f"unknown key {key!r} in [teacher]{hint}; known: {', '.join(known)}"
            )
    if "schema" in table:
        for key in ("shape", "classes", "class_names", "tasks"):
            if key in table:
                raise SettingsError(f"teacher.{key} stands in the schema already; take it away")
    elif "shape" not in table:
        raise SettingsError(
            "teacher.shape is missing; give it, or for rows of a table a schema, see "
            "docs/teachers.md"
        )
    try:
        spec = TypeAdapter(TeacherSpec).validate_python(dict(table))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SettingsError(f"teacher.{where}: {first['msg'].lower()}; correct it") from None
    return replace(spec, folder=folder)
