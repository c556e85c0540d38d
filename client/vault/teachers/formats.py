"""Table of the formats of external teachers; open a teacher and check its first answers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

import torch

from fedkd.client.vault.teachers.factory_function import open_factory
from fedkd.client.vault.teachers.fedkd_networks import open_fedkd
from fedkd.client.vault.teachers.inference_server import open_server
from fedkd.client.vault.teachers.memory_limit import (
    GIB,
    limited_memory,
    memory_limit,
    ran_out_of_memory,
)
from fedkd.client.vault.teachers.onnx_file import open_onnx
from fedkd.client.vault.teachers.pt2_archive import open_pt2
from fedkd.client.vault.teachers.skops_file import open_skops
from fedkd.client.vault.teachers.teacher_spec import TeacherSpec
from fedkd.client.vault.teachers.timm_networks import open_timm
from fedkd.client.vault.teachers.torchvision_networks import open_torchvision
from fedkd.errors import DataError, FedkdError, SettingsError
from fedkd.models import Teacher
from fedkd.protocol import Signal

COMMON_FIELDS = frozenset({"source", "shape", "classes", "class_names", "folder"})
"""Fields of a `TeacherSpec` that every format takes."""

NORMALISATION = frozenset({"mean", "std"})
NETWORK_FIELDS = NORMALISATION | {"weights", "options", "outputs"}
FROM_FILE = frozenset({"memory"})
NAMED_TENSORS = NORMALISATION | {"outputs", "input_name", "output_name"}

MAX_RELATIVE_DIFFERENCE = 1e-2
"""Of a teacher's two answers to one image, relative to the largest logit."""


@dataclass(frozen=True)
class Format:
    """A format of teachers: what opens it, and which fields beyond the common ones it takes."""

    open: Callable[[TeacherSpec, str], Teacher]
    """From a spec and the part of its source after the prefix."""
    takes: frozenset[str]

    @property
    def from_file(self) -> bool:
        """Whether it opens a file that says itself what it computes."""
        return self.takes >= FROM_FILE


FORMATS: Mapping[str, Format] = {
    "factory": Format(open_factory, NETWORK_FIELDS),
    "fedkd": Format(open_fedkd, frozenset({"weights"})),
    "torchvision": Format(open_torchvision, NETWORK_FIELDS),
    "timm": Format(open_timm, NETWORK_FIELDS),
    "onnx": Format(open_onnx, FROM_FILE | NAMED_TENSORS),
    "pt2": Format(open_pt2, FROM_FILE | NORMALISATION | {"outputs", "trusted"}),
    "skops": Format(open_skops, FROM_FILE | NORMALISATION | {"trusted_types"}),
    "oip": Format(open_server, NAMED_TENSORS | {"batch", "timeout", "insecure", "ca"}),
}
"""Formats by the prefix of a source, before its first colon."""


def open_teacher(spec: TeacherSpec) -> Teacher:
    """Open a teacher and try it, so that faults show now and not at the first query.

    Raises:
        SettingsError: no such format, a field that it does not take, or a dependency is missing.
        DataError: it cannot be opened, or its answers are not as the owner specifies.
    """
    prefix, _, rest = spec.source.partition(":")
    if prefix not in FORMATS:
        raise SettingsError(
            f"unknown source {spec.source!r}; it begins with one of "
            f"{', '.join(f'{known}:' for known in FORMATS)}"
        )
    taken = COMMON_FIELDS | FORMATS[prefix].takes
    plain = TeacherSpec(spec.source, spec.shape, classes=1)
    for field in fields(spec):
        if field.name not in taken and getattr(spec, field.name) != getattr(plain, field.name):
            raise SettingsError(f"{prefix}: takes no {field.name}; take it away")
    if not FORMATS[prefix].from_file:
        return _opened(spec, prefix, rest)
    limit = memory_limit(spec)
    try:
        with limited_memory(limit):
            return _opened(spec, prefix, rest)
    except (FedkdError, MemoryError) as error:
        if not ran_out_of_memory(error):
            raise
        raise DataError(
            f"{spec.source} takes more than {limit / GIB:.3g} GiB of memory; see who made it, or "
            f"raise teacher.memory"
        ) from error


def _opened(spec: TeacherSpec, prefix: str, rest: str) -> Teacher:
    teacher = FORMATS[prefix].open(spec, rest)
    _check_answers(teacher, spec)
    return teacher


def _check_answers(teacher: Teacher, spec: TeacherSpec) -> None:
    """Check the answers to a black image, alone and in a batch with a white one.

    A network left in training mode depends on the rest of the batch, or is random.
    """
    black, white = torch.zeros(1, *spec.shape), torch.ones(1, *spec.shape)
    logits = frozenset({Signal.LOGITS})
    try:
        alone = teacher.ask(black, logits)[Signal.LOGITS]
        beside = teacher.ask(torch.cat([black, white]), logits)[Signal.LOGITS]
    except (FedkdError, MemoryError):
        raise
    except Exception as error:  # the owner's network may raise anything
        first = next(iter(str(error).splitlines()), "")
        raise DataError(
            f"{spec.source} cannot answer images of {list(spec.shape)}: {type(error).__name__}: "
            f"{first}; give the shape that it was trained on"
        ) from error
    if alone.shape != (1, spec.classes) or beside.shape != (2, spec.classes):
        raise DataError(
            f"{spec.source} answers {list(alone.shape)} to one image, expected "
            f"[1, {spec.classes}]; give the number of its classes"
        )
    if not bool(torch.cat([alone, beside]).isfinite().all()):
        raise DataError(f"{spec.source} answers numbers that are not finite; see its weights")
    largest = alone.abs().max().clamp_min(1.0)
    if bool((alone - beside[:1]).abs().max() > MAX_RELATIVE_DIFFERENCE * largest):
        raise DataError(
            f"{spec.source} answers one image differently beside another; save it in evaluation "
            f"mode"
        )
