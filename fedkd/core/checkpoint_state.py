"""Checkpointed state of a run: named tensors and JSON numbers, in one safetensors file.

Nothing in the file can run code, and the same state gives the same bytes.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import singledispatch
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from fedkd.errors import DataError

VERSION = 3
"""Of what stands in a state; a file of another version is refused."""


@dataclass(frozen=True, eq=False)
class State:
    """All of something that changes, as a copy of its own."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    numbers: Mapping[str, Any] = field(default_factory=dict)
    """JSON values; a float comes back as the same float."""


class Stateful(Protocol):
    """Something that can be set back to where it was."""

    def state(self) -> State:
        """All of it that changes."""

    def restore(self, state: State) -> None:
        """Be again as when ``state`` was taken."""


Part: TypeAlias = Stateful | nn.Module | Optimizer | torch.Generator


def gather(parts: Mapping[str, Part], numbers: Mapping[str, Any]) -> State:
    """The states of ``parts``, by name, in one, with ``numbers`` beside them."""
    each = {name: _taken(part) for name, part in parts.items()}
    return State(
        {f"{name}/{key}": t for name, state in each.items() for key, t in state.tensors.items()},
        {**{name: dict(state.numbers) for name, state in each.items()}, "": dict(numbers)},
    )


def scatter(state: State, parts: Mapping[str, Part]) -> Mapping[str, Any]:
    """Set ``parts`` back to where `gather` found them; returns the numbers beside them.

    Raises:
        DataError: the state was taken of something else.
    """
    try:
        for name, part in parts.items():
            start = f"{name}/"
            own = {k[len(start) :]: t for k, t in state.tensors.items() if k.startswith(start)}
            _put_back(part, State(own, state.numbers[name]))
        numbers: Mapping[str, Any] = state.numbers[""]
    except (KeyError, ValueError, RuntimeError) as error:
        text = " ".join(str(error).split())
        raise DataError(
            f"the state is of another run: {name} does not fit ({text[:200]}); "
            "resume it with the experiment that it was taken of"
        ) from error
    return numbers


def write(state: State, path: Path) -> None:
    """Put ``state`` into a file.

    Raises:
        OSError: it cannot be written.
    """
    text = json.dumps({"version": VERSION, "numbers": state.numbers}, sort_keys=True)
    try:
        save_file(dict(state.tensors), path, {"fedkd": text})
    except SafetensorError as error:
        raise OSError(" ".join(str(error).split())) from error


def read(path: Path) -> State:
    """The state in a file.

    Raises:
        DataError: there is none, or one of another version.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {})["fedkd"])
            version, numbers = metadata["version"], metadata["numbers"]
            # Clones, so that nothing of the run lies in a file that will be replaced.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} is no state of a run ({' '.join(str(error).split())}); start the run again"
        ) from error
    if version != VERSION:
        raise DataError(
            f"{path} is of version {version} of the state, expected {VERSION}; resume it with "
            "the release of fedkd that began the run, or start the run again"
        )
    return State(tensors, numbers)


@singledispatch
def _taken(part: Any) -> State:
    state: State = part.state()
    return state


@singledispatch
def _put_back(part: Any, state: State) -> None:
    part.restore(state)


@_taken.register
def _(module: nn.Module) -> State:
    return State({name: _copy(tensor) for name, tensor in module.state_dict().items()})


@_put_back.register
def _(module: nn.Module, state: State) -> None:
    module.load_state_dict(dict(state.tensors))


@_taken.register
def _(optimizer: Optimizer) -> State:
    moments = optimizer.state_dict()["state"]
    return State({f"{i}.{name}": _copy(t) for i, of in moments.items() for name, t in of.items()})


@_put_back.register
def _(optimizer: Optimizer, state: State) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    moments: dict[int, dict[str, Tensor]] = {}
    for key, tensor in state.tensors.items():
        index, name = key.split(".")
        weight = parameters[int(index)]
        if tensor.shape == weight.shape:  # laid out in memory as the optimizer lays it out
            tensor = torch.empty_like(weight).copy_(tensor)
        moments.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})


@_taken.register
def _(rng: torch.Generator) -> State:
    return State({"state": rng.get_state()})


@_put_back.register
def _(rng: torch.Generator, state: State) -> None:
    rng.set_state(state.tensors["state"])


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
