"""Student weights that are submitted for evaluation: check them and load them into a network.

Weights come as safetensors, which cannot hold code. The network is built here, by name.
"""

import json
import struct
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import nn

from fedkd.errors import DataError, SettingsError
from fedkd.models import Shape, build_network

MAX_CLASSES = 10_000
"""Of a student, since its head is built before its weights are read."""
_HEADER_BYTES = 1024 * 1024
_NUMBER_BYTES = 8


def build_student(model: str, classes: int, shape: Shape) -> nn.Module:
    """The network for a student's weights, still to be loaded.

    Raises:
        SettingsError: no such network, or of a size that makes no sense.
    """
    if not 1 <= classes <= MAX_CLASSES:
        raise SettingsError(f"a student of {classes} classes; expected 1 to {MAX_CLASSES}")
    return build_network(model, classes, shape, seed=0)


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


def open_student(path: Path) -> nn.Module:
    """The student in a file that a run wrote.

    Raises:
        DataError: the file is none, or does not say which network it is of.
    """
    try:
        content = path.read_bytes()
        # A length of 8 bytes, then a header in JSON.
        (length,) = struct.unpack_from("<Q", content)
        notes = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["fedkd"])
        channels, height, width = (int(side) for side in notes["shape"].split("x"))
        student = build_student(notes["student"], int(notes["classes"]), (channels, height, width))
    except OSError as error:
        raise DataError(
            f"cannot read {path}: {error.strerror}; name a student.safetensors"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, struct.error):
        raise DataError(
            f"{path} is no student of fedkd's; name the student.safetensors of a run"
        ) from None
    load_weights(student, content)
    return student
