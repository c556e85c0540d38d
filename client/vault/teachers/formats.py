"""Table of the formats of external teachers; open a teacher and check its first answers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from fedkd.client.vault.teachers.adapters.table_answers import check_table_answers
from fedkd.client.vault.teachers.adapters.table_layout import TableLayout
from fedkd.client.vault.teachers.factory_function import open_factory, open_factory_table
from fedkd.client.vault.teachers.fedkd_networks import open_fedkd, open_fedkd_table
from fedkd.client.vault.teachers.file_checks.memory_limit import (
    GIB,
    limited_memory,
    memory_limit,
    ran_out_of_memory,
)
from fedkd.client.vault.teachers.file_openers.catboost_file import open_catboost
from fedkd.client.vault.teachers.file_openers.lightgbm_file import open_lightgbm
from fedkd.client.vault.teachers.file_openers.onnx_file import open_onnx
from fedkd.client.vault.teachers.file_openers.onnx_table import open_onnx_table
from fedkd.client.vault.teachers.file_openers.pt2_archive import open_pt2, open_pt2_table
from fedkd.client.vault.teachers.file_openers.skops_file import open_skops, open_skops_table
from fedkd.client.vault.teachers.file_openers.xgboost_file import open_xgboost
from fedkd.client.vault.teachers.given_object import adapt_object
from fedkd.client.vault.teachers.inference_server import open_server, open_server_table
from fedkd.client.vault.teachers.teacher_spec import TeacherSpec
from fedkd.client.vault.teachers.timm_networks import open_timm
from fedkd.client.vault.teachers.torchvision_networks import open_torchvision
from fedkd.errors import DataError, FedkdError, SettingsError
from fedkd.models import Teacher, probe_images, sum_to_one
from fedkd.protocol import Signal

COMMON_FIELDS = frozenset(
    {"source", "shape", "classes", "class_names", "tasks", "schema", "folder"}
)
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

    open: Callable[[TeacherSpec, str], Teacher] | None
    """From a spec and the part of its source after the prefix; None: it reads no images."""
    takes: frozenset[str]
    open_table: Callable[[TeacherSpec, str, TableLayout], Teacher] | None = None
    """The same where rows of a table are read; None: it reads none."""

    @property
    def from_file(self) -> bool:
        """Whether it opens a file that says itself what it computes."""
        return self.takes >= FROM_FILE


OF_SERVER = NAMED_TENSORS | {"batch", "timeout", "insecure", "ca"}

FORMATS: Mapping[str, Format] = {
    "factory": Format(open_factory, NETWORK_FIELDS, open_factory_table),
    "fedkd": Format(open_fedkd, frozenset({"weights"}), open_fedkd_table),
    "torchvision": Format(open_torchvision, NETWORK_FIELDS),
    "timm": Format(open_timm, NETWORK_FIELDS),
    "onnx": Format(open_onnx, FROM_FILE | NAMED_TENSORS, open_onnx_table),
    "pt2": Format(open_pt2, FROM_FILE | NORMALISATION | {"outputs", "trusted"}, open_pt2_table),
    "skops": Format(open_skops, FROM_FILE | NORMALISATION | {"trusted_types"}, open_skops_table),
    "oip": Format(open_server, OF_SERVER, open_server_table),
    "xgboost": Format(None, FROM_FILE | {"trusted"}, open_xgboost),
    "lightgbm": Format(None, FROM_FILE, open_lightgbm),
    "catboost": Format(None, FROM_FILE | {"trusted"}, open_catboost),
}
"""Formats by the prefix of a source, before its first colon."""


def open_teacher(spec: TeacherSpec, layout: TableLayout | None = None) -> Teacher:
    """Open a teacher and try it, so that faults show now and not at the first query.

    Args:
        spec: the owner's.
        layout: of the schema, where it reads rows of a table.

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
    plain = TeacherSpec(spec.source, (1, 1, 1), classes=1)
    for field in fields(spec):
        if field.name not in taken and getattr(spec, field.name) != getattr(plain, field.name):
            raise SettingsError(f"{prefix}: takes no {field.name}; take it away")
    if not FORMATS[prefix].from_file:
        return _opened(spec, prefix, rest, layout)
    limit = memory_limit(spec)
    try:
        with limited_memory(limit):
            return _opened(spec, prefix, rest, layout)
    except (FedkdError, MemoryError) as error:
        if not ran_out_of_memory(error):
            raise
        raise DataError(
            f"{spec.source} takes more than {limit / GIB:.3g} GiB of memory; see who made it, or "
            f"raise teacher.memory"
        ) from error


def open_object(given: object, spec: TeacherSpec, layout: TableLayout | None = None) -> Teacher:
    """A teacher that is an object in Python, tried as one of a file is.

    Raises:
        SettingsError: it does not take what the spec says.
        DataError: it is no teacher, or its answers are not as the owner specifies.
    """
    if layout is not None:
        spec = _as_images(spec, layout)
        teacher = adapt_object(given, spec, layout)
        check_table_answers(teacher, spec, layout)
        return teacher
    teacher = adapt_object(given, spec, None)
    _check_answers(teacher, spec)
    return teacher


def _opened(spec: TeacherSpec, prefix: str, rest: str, layout: TableLayout | None) -> Teacher:
    opens, opens_table = FORMATS[prefix].open, FORMATS[prefix].open_table
    if layout is not None:
        if opens_table is None:
            raise SettingsError(f"{prefix}: reads images and no rows; give shape, and no schema")
        teacher = opens_table(_as_images(spec, layout), rest, layout)
        check_table_answers(teacher, spec, layout)
        return teacher
    if opens is None:
        raise SettingsError(f"{prefix}: reads rows of a table; give a schema in place of shape")
    teacher = opens(spec, rest)
    _check_answers(teacher, spec)
    return teacher


def _as_images(spec: TeacherSpec, layout: TableLayout) -> TeacherSpec:
    """The spec with shape and classes of the schema, for what is opened as of images."""
    if layout.numbers and spec.outputs != "logits":
        raise SettingsError("outputs is of classes, and the schema predicts numbers; take it away")
    names = layout.class_names or None
    return replace(spec, shape=layout.shape, classes=layout.outputs, class_names=names)


def _check_answers(teacher: Teacher, spec: TeacherSpec) -> None:
    """Check the answers to a black image, alone and in a batch with a white one and noise.

    A network left in training mode depends on the rest of the batch, or is random.
    """
    probes = probe_images(spec.shape)
    logits = frozenset({Signal.LOGITS})
    try:
        alone = teacher.ask(probes[:1], logits)[Signal.LOGITS]
        beside = teacher.ask(probes, logits)[Signal.LOGITS]
    except (FedkdError, MemoryError):
        raise
    except Exception as error:  # the owner's network may raise anything
        first = next(iter(str(error).splitlines()), "")
        raise DataError(
            f"{spec.source} cannot answer images of {list(spec.shape)}: {type(error).__name__}: "
            f"{first}; give the shape that it was trained on"
        ) from error
    if alone.shape != (1, spec.classes) or beside.shape != (len(probes), spec.classes):
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
    _check_outputs(beside, spec)


def _check_outputs(said: Tensor, spec: TeacherSpec) -> None:
    """Check that what are called probabilities are some, and that logits are none."""
    if spec.outputs == "logits" and sum_to_one(said):
        raise DataError(
            f'{spec.source} answers probabilities; say outputs = "probabilities" under [teacher]'
        )
    if spec.outputs == "probabilities" and spec.classes > 1 and not sum_to_one(said.exp()):
        raise DataError(
            f"{spec.source} answers numbers that are no probabilities of {spec.classes} classes; "
            'say outputs = "logits" under [teacher], or let it end in a softmax'
        )
