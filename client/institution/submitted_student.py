"""A student that somebody hands in: weights put into a network of ours. Knows no private thing.

Weights come as safetensors, which cannot hold code; the network is built here by name.
"""

import json
import struct
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from fedkd.errors import DataError, SettingsError
from fedkd.models import Network, Shape, build_network

MOST_CLASSES = 10_000
"""Of a student: its head is built before its weights are seen."""
_HEADER_BYTES = 1024 * 1024
_NUMBER_BYTES = 8


def network(model: str, classes: int, shape: Shape) -> Network:
    """The network that weights are to be put into.

    Raises:
        SettingsError: no such network, or of a size that makes no sense.
    """
    if not 1 <= classes <= MOST_CLASSES:
        raise SettingsError(f"a student of {classes} classes; expected 1 to {MOST_CLASSES}")
    return build_network(model, classes, shape, seed=0)


def most_bytes(student: Network) -> int:
    """Bytes that a file of this network's weights may have, in whatever type they travel."""
    numbers: int = sum(tensor.numel() for tensor in student.state_dict().values())
    return _HEADER_BYTES + _NUMBER_BYTES * numbers


def fill(student: Network, weights: bytes) -> None:
    """Put weights into a network.

    Args:
        student: of `network`.
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


def opened(path: Path) -> Network:
    """The student of a file that a run left, see `fedkd.server.report.export.save_student`.

    Raises:
        DataError: the file is none, or does not say which network it is of.
    """
    try:
        content = path.read_bytes()
        # A length of 8 bytes, then a header in JSON.
        (length,) = struct.unpack_from("<Q", content)
        notes = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["fedkd"])
        channels, height, width = (int(side) for side in notes["shape"].split("x"))
        student = network(notes["student"], int(notes["classes"]), (channels, height, width))
    except OSError as error:
        raise DataError(
            f"cannot read {path}: {error.strerror}; name a student.safetensors"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, struct.error):
        raise DataError(
            f"{path} is no student of fedkd's; name the student.safetensors of a run"
        ) from None
    fill(student, content)
    return student
