"""Torch modules as teachers: load safetensors weights, normalise inputs, take log-probabilities.

Weights come from safetensors alone, which hold numbers and no code.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from fedkd.client.vault.regular_files import open_regular_file, read_exactly
from fedkd.client.vault.teachers.teacher_spec import TeacherSpec
from fedkd.errors import DataError
from fedkd.models import MIN_PROBABILITY, ModuleTeacher

LENGTH_BYTES = 8
"""At the beginning of a safetensors file: the length of its header."""
HEADER_BYTES = 1 << 20
"""Of a header, besides its tensors: notes of whoever saved it."""
HEADER_BYTES_PER_TENSOR = 256
"""Besides the tensor's name."""
NUMBER_BYTES = 8
"""Of the largest type."""

M = TypeVar("M", bound=nn.Module)


class PreprocessedNetwork(nn.Module):
    """A network with the owner's normalisation before it, and a logarithm behind probabilities.

    Args:
        network: (B, C, H, W) normalised -> (B, K).
        spec: says which of the two apply.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, spec: TeacherSpec) -> None:
        super().__init__()
        self.network, self._probabilities = network, spec.outputs == "probabilities"
        # As broadcast against (B, C, H, W).
        self.register_buffer("mean", torch.tensor(spec.mean or [0.0]).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(spec.std or [1.0]).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] -> logits (B, K)."""
        output: Tensor = self.network((x - self.mean) / self.std)
        return output.clamp_min(MIN_PROBABILITY).log() if self._probabilities else output


def module_teacher(network: nn.Module, spec: TeacherSpec) -> ModuleTeacher:
    """The owner's network as a teacher; wrapped only where it needs preprocessing."""
    if spec.schema is not None:  # a row is an image of (1, 1, D), and such networks read (B, D)
        network = nn.Sequential(nn.Flatten(), network)
    plain = spec.mean is None and spec.outputs != "probabilities"
    return ModuleTeacher(network if plain else PreprocessedNetwork(network, spec), spec.classes)


def preserving_rng_state(make: Callable[[], M]) -> M:
    """Build a network, and restore the state of torch's global random generator."""
    with torch.random.fork_rng(devices=[]):
        return make()


def load_weights(network: nn.Module, path: Path) -> None:
    """Load a file's weights into a network: all of them, and no others.

    Raises:
        DataError: no such file, no safetensors, weights of another network, or not finite.
    """
    own = network.state_dict()
    content = _read_weights(own, path)
    try:
        weights = load(content)
    except (SafetensorError, RuntimeError, ValueError, TypeError, KeyError, OverflowError):
        raise DataError(
            f"{path} cannot be read as safetensors (no weights); save a state_dict there with "
            f"safetensors.torch.save_file"
        ) from None
    differing = [n for n in own if n in weights and weights[n].shape != own[n].shape]
    faults = [
        _some("missing", [n for n in own if n not in weights]),
        _some("unknown", [n for n in weights if n not in own]),
        _some(
            "of another shape",
            [f"{n} {list(weights[n].shape)} for {list(own[n].shape)}" for n in differing],
        ),
    ]
    if any(faults):
        raise DataError(
            f"{path} does not fit the network: {', '.join(filter(None, faults))}; give the "
            f"weights, the classes and the shape that belong together"
        )
    network.load_state_dict(weights)
    for name, tensor in network.state_dict().items():
        if not bool(tensor.isfinite().all()):
            raise DataError(f"{path} has numbers in {name} that are not finite; see its training")


def _read_weights(own: Mapping[str, Tensor], path: Path) -> bytes:
    """A safetensors file that has no more bytes than these tensors may take.

    Raises:
        DataError: it cannot be read, or is larger.
    """
    names = sum(len(name) for name in own)
    header = HEADER_BYTES + HEADER_BYTES_PER_TENSOR * len(own) + names
    most = header + NUMBER_BYTES * sum(tensor.numel() for tensor in own.values())
    with open_regular_file(path) as (file, size):
        if size > most:
            raise DataError(
                f"{path} does not fit the network: it has {size} bytes, and the weights of this "
                f"network at most {most}; give those that belong to it"
            )
        start = read_exactly(file, min(size, LENGTH_BYTES), path)
        if int.from_bytes(start, "little") > header:
            raise DataError(
                f"{path} cannot be read as safetensors (its header is longer than {header} bytes); "
                f"save a state_dict there with safetensors.torch.save_file"
            )
        return start + read_exactly(file, size - len(start), path)


def _some(what: str, names: Sequence[str]) -> str:
    """How many names there are, and the first of them; nothing for none."""
    return f"{len(names)} {what} ({names[0]})" if names else ""
