"""Student weights that are submitted for evaluation: check them and load them into a network.

Weights come as safetensors, which cannot hold code. The network is built here, by name.
"""

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import nn

from fedkd.client.vault.regular_files import open_regular_file, read_exactly
from fedkd.errors import DataError, SettingsError
from fedkd.models import (
    MODELS,
    TABLE_MODELS,
    Shape,
    build_network,
    build_table_network,
    network_factory,
)
from fedkd.protocol import Column, abbreviated

NO_STUDENT = (
    *(ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError),
    struct.error,
)
"""What reading a file that is no student may raise."""
MAX_CLASSES = 10_000
"""Of a student, since its head is built before its weights are read."""
MAX_PIXELS = 1 << 24
"""C x H x W of a student's images: 2,364 x 2,364 in colour."""
MAX_PARAMETERS = 1 << 30
"""Of a student."""
MAX_FILE_BYTES = 8 << 30
"""Of a student's file."""
_HEADER_BYTES = 1024 * 1024
_NUMBER_BYTES = 8
_LENGTH_BYTES = 8


def build_student(
    model: str, classes: int, shape: Shape, columns: Sequence[Column] = ()
) -> nn.Module:
    """The network for a student's weights, still to be loaded.

    Args:
        model: name of the network.
        classes: K, classes or numbers.
        shape: (C, H, W).
        columns: (D,) of rows; none: it reads images.

    Raises:
        SettingsError: no such network, or of a size that makes no sense.
    """
    if columns and shape != (1, 1, len(columns)):
        raise SettingsError(f"a student of {shape[2]} columns, and the rows have {len(columns)}")
    if not 1 <= classes <= MAX_CLASSES:
        raise SettingsError(f"a student of {classes} classes; expected 1 to {MAX_CLASSES}")
    if min(shape) < 1 or math.prod(shape) > MAX_PIXELS:
        raise SettingsError(f"a student of images {shape}; at most {MAX_PIXELS} numbers are taken")
    if (size := _parameters(model, classes, shape, columns)) > MAX_PARAMETERS:
        raise SettingsError(f"a student of {size} parameters; at most {MAX_PARAMETERS} are taken")
    return _network(model, classes, shape, columns)


def is_installed(model: str) -> bool:
    """Whether a network of that name can be built: ours, or an installed package's."""
    try:
        network_factory(model, {**MODELS, **TABLE_MODELS})
    except SettingsError:
        return False
    return True


def _network(model: str, classes: int, shape: Shape, columns: Sequence[Column]) -> nn.Module:
    if columns:
        return build_table_network(model, classes, columns, seed=0)
    return build_network(model, classes, shape, seed=0)


def _parameters(model: str, classes: int, shape: Shape, columns: Sequence[Column]) -> int:
    """Numbers of a network that is not built: on the meta device it takes no memory.

    Raises:
        SettingsError: no such network, or images that it cannot read.
    """
    try:
        with torch.device("meta"):
            network = _network(model, classes, shape, columns)
    except (RuntimeError, ValueError, OverflowError, TypeError):
        if model not in MODELS and model not in TABLE_MODELS:
            return (
                0  # a network of the owner's own that cannot be built there; its shape is bounded
            )
        raise SettingsError(f"a student {model} of images {shape}, which cannot be") from None
    return sum(tensor.numel() for tensor in network.state_dict().values())


def max_weights_bytes(student: nn.Module) -> int:
    """Largest size in bytes of a file of this network's weights, in any number type."""
    numbers: int = sum(tensor.numel() for tensor in student.state_dict().values())
    return _HEADER_BYTES + _NUMBER_BYTES * numbers


def load_weights(student: nn.Module, weights: bytes) -> None:
    """Load submitted weights into a network.

    Args:
        student: from `build_student`.
        weights: safetensors with exactly the tensors of that network.

    Raises:
        DataError: they are not its weights. The text is fit for whoever sent them.
    """
    try:
        tensors = load(weights)
        student.load_state_dict(tensors)
    except (SafetensorError, RuntimeError, ValueError, TypeError, KeyError, OverflowError):
        raise DataError("these are not the weights of that model") from None
    if not all(bool(torch.isfinite(tensor).all()) for tensor in student.state_dict().values()):
        raise DataError("weights that are not finite")


@dataclass(frozen=True, eq=False)
class OpenedStudent:
    """A student from a file, and what its outputs are called."""

    network: nn.Module
    classes: tuple[str, ...] | None
    """(K,) names in the order of its outputs; None: the file does not say."""


def student_classes(notes: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Names of a student's outputs, (K,), from what a run wrote beside it; None: it wrote none.

    Raises:
        ValueError, TypeError: they are none.
    """
    found = notes.get("class_names")
    return None if found is None else tuple(str(name) for name in json.loads(found))


def open_student(path: Path, columns: Sequence[Column] = ()) -> OpenedStudent:
    """The student in a file that a run wrote.

    Args:
        path: of the file.
        columns: (D,) of the rows that the student reads; none: it reads images.

    Raises:
        DataError: the file is none, or does not say which network it is of.
    """
    with open_regular_file(path) as (file, size):
        try:
            # A length of 8 bytes, then a header in JSON.
            start = read_exactly(file, min(size, _LENGTH_BYTES), path)
            (length,) = struct.unpack("<Q", start)
            if size > MAX_FILE_BYTES or length > _HEADER_BYTES:
                raise ValueError
            header = read_exactly(file, length, path)
            notes = json.loads(json.loads(header)["__metadata__"]["fedkd"])
            student, names = _described_student(notes, size, columns), student_classes(notes)
        except NO_STUDENT:
            raise DataError(
                f"{path} is no student of fedkd's; name the student.safetensors of a run"
            ) from None
        content = start + header + read_exactly(file, size - len(start) - length, path)
    load_weights(student, content)
    return OpenedStudent(student, names)


def _described_student(notes: Mapping[str, Any], size: int, columns: Sequence[Column]) -> nn.Module:
    """The network that a file's notes name, where a file of ``size`` bytes can hold its weights.

    Raises:
        ValueError, KeyError, TypeError, AttributeError, OverflowError: it names none, or one of
            another size.
    """
    channels, height, width = (int(side) for side in notes["shape"].split("x"))
    name, classes, shape = notes["student"], int(notes["classes"]), (channels, height, width)
    if not 1 <= classes <= MAX_CLASSES or min(shape) < 1 or math.prod(shape) > MAX_PIXELS:
        raise ValueError
    if columns and shape != (1, 1, len(columns)):
        raise DataError(
            f"a student of {width} columns, and the schema here has {len(columns)}; name the "
            "student of a run that you took part in"
        )
    if not is_installed(name):
        raise DataError(
            f"a student of the network {abbreviated([name])}, which is not installed here; score "
            "student.onnx of the same run"
        )
    if _parameters(name, classes, shape, columns) > size:  # a byte each, at the very least
        raise ValueError
    student = build_student(name, classes, shape, columns)
    if size > max_weights_bytes(student):
        raise ValueError
    return student
