"""Serialisation of tensors as metadata and raw payloads, little-endian in C order.

A `TensorSpec` is what one kind of tensor must be; both directions check it.
"""

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedkd.errors import LocalProtocolError
from fedkd.protocol import Signal
from fedkd.wire.logit_packing import pack, unpack
from fedkd.wire.relation_packing import pack_relations, unpack_relations
from fedkd.wire.v1 import teacher_pb2 as pb

# torch warns, once in a process, that a tensor over bytes could write to them. Nobody writes to
# the tensors of a message, and a warning that is turned into an error must not end a session: it
# is triggered here, where it can be silenced without touching the filters of other threads later.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch.frombuffer(b"\0", dtype=torch.uint8)

DTYPES = {
    torch.uint8: pb.DTYPE_UINT8,
    torch.float16: pb.DTYPE_FLOAT16,
    torch.float32: pb.DTYPE_FLOAT32,
}
"""Number formats of tensors on the wire."""
_BY_NUMBER = {number: dtype for dtype, number in DTYPES.items()}


@dataclass(frozen=True)
class Packing:
    """A lossless short form of some float16 matrices."""

    pack: Callable[[Tensor], np.ndarray | None]
    """A matrix as bytes; None where it has no short form."""
    unpack: Callable[[memoryview, int, int], Tensor]
    """Bytes and the two sizes of the matrix; raises LocalProtocolError."""


PACKINGS: "Mapping[pb.DType, Packing]" = {
    pb.DTYPE_ROWS: Packing(pack, unpack),
    pb.DTYPE_TRIANGLE: Packing(pack_relations, unpack_relations),
}
"""By number format of packed tensors on the wire."""


@dataclass(frozen=True)
class TensorSpec:
    """What one kind of tensor must be.

    Attributes:
        name: for error messages.
        axes: one letter for each axis, from the legend in `fedkd.protocol.signals`; all sizes are 1
            or more.
        dtypes: that are allowed.
        unit: whether floats lie in [0, 1]; else they only have to be finite.
        packing: format in which float16 may be packed, a key of `PACKINGS`; None: never.
    """

    name: str
    axes: str
    dtypes: tuple[torch.dtype, ...]
    unit: bool = False
    packing: "pb.DType | None" = None

    def check(self, dtype: torch.dtype | None, shape: tuple[int, ...]) -> None:
        """Raises LocalProtocolError where ``dtype`` or ``shape`` does not fit."""
        if dtype not in self.dtypes:
            allowed = " or ".join(str(each).removeprefix("torch.") for each in self.dtypes)
            raise LocalProtocolError(f"{self.name} of another type than {allowed}")
        if len(shape) != len(self.axes):
            raise LocalProtocolError(
                f"{self.name} of {len(shape)} axes, expected ({', '.join(self.axes)})"
            )
        if 0 in shape:
            raise LocalProtocolError(f"{self.name} of shape {shape}: it is empty")

    def check_values(self, tensor: Tensor) -> None:
        """Raises LocalProtocolError where a float is not finite, or out of [0, 1] if `unit`."""
        if not tensor.is_floating_point():
            return
        # No temporaries, and two such passes take less than one of aminmax. A NaN anywhere is both
        # the least and the greatest.
        low, high = torch.amin(tensor).item(), torch.amax(tensor).item()
        if not (math.isfinite(low) and math.isfinite(high)):
            raise LocalProtocolError(f"{self.name} with a value that is not finite")
        if self.unit and (low < 0.0 or high > 1.0):
            raise LocalProtocolError(f"{self.name} out of [0, 1]")


IMAGES = TensorSpec("images", "BCHW", (torch.uint8, torch.float32), unit=True)
WEIGHTS = TensorSpec("weights", "P", (torch.float16,))
GRADIENT = TensorSpec("a gradient", "BCHW", (torch.float32,))
SIGNALS = {
    Signal.LOGITS: TensorSpec(
        "logits", "BK", (torch.float16, torch.float32), packing=pb.DTYPE_ROWS
    ),
    Signal.BN_GAP: TensorSpec("a batch-norm gap", "", (torch.float32,)),
    Signal.FEATURES: TensorSpec("features", "BD", (torch.float16, torch.float32)),
    Signal.ACTIVATION: TensorSpec("an activation", "", (torch.float32,)),
    Signal.RELATIONS: TensorSpec(
        "relations", "BB", (torch.float16, torch.float32), packing=pb.DTYPE_TRIANGLE
    ),
}
COTANGENTS = {
    signal: TensorSpec(f"a cotangent of {spec.name}", spec.axes, (torch.float32,))
    for signal, spec in SIGNALS.items()
}


class TensorWriter:
    """Writes the tensors of one message, in order.

    Args:
        packed: whether signals are packed, where that is shorter.
    """

    def __init__(self, packed: bool = False) -> None:
        self.arrays: list[np.ndarray] = []
        self._packed = packed

    def put(self, spec: TensorSpec, tensor: Tensor) -> pb.Tensor:
        """Add ``tensor`` and return its metadata; it is copied only if not contiguous on a CPU.

        Raises:
            LocalProtocolError: ``tensor`` does not fit ``spec``.
        """
        shape = tuple(tensor.shape)
        spec.check(tensor.dtype, shape)
        tensor = tensor.detach().cpu().contiguous()
        spec.check_values(tensor)
        if self._packed and spec.packing is not None and tensor.dtype == torch.float16:
            contents = PACKINGS[spec.packing].pack(tensor)
            if contents is not None:
                self.arrays.append(contents)
                return pb.Tensor(dtype=spec.packing, shape=shape)
        self.arrays.append(tensor.numpy())
        return pb.Tensor(dtype=DTYPES[tensor.dtype], shape=shape)


class TensorReader:
    """Reads the tensors of one received message, in order."""

    def __init__(self, data: bytes, positions: list[slice]) -> None:
        self._data = data
        self._positions = iter(positions)

    def take(self, spec: TensorSpec, metadata: pb.Tensor) -> Tensor:
        """The next tensor: a view of the message's bytes, unless it was packed.

        Raises:
            LocalProtocolError: metadata, payload and ``spec`` do not fit each other.
        """
        if len(metadata.shape) > len(spec.axes):
            raise LocalProtocolError(f"{spec.name} of too many axes")
        shape = tuple(metadata.shape)
        packing = PACKINGS[spec.packing] if metadata.dtype == spec.packing else None
        dtype = torch.float16 if packing else _BY_NUMBER.get(metadata.dtype)
        spec.check(dtype, shape)
        position = next(self._positions, slice(0, 0))
        if packing:
            values = packing.unpack(memoryview(self._data)[position], shape[0], shape[1])
            spec.check_values(values)
            return values
        count = math.prod(shape)
        if dtype is None or position.stop - position.start != count * dtype.itemsize:
            raise LocalProtocolError(
                f"{position.stop - position.start} bytes for {spec.name} of shape {shape}"
            )
        tensor = torch.frombuffer(self._data, dtype=dtype, count=count, offset=position.start)
        if tensor.data_ptr() % dtype.itemsize:
            # Compiled loops may count on every element standing at a multiple of its size.
            tensor = torch.frombuffer(bytearray(memoryview(self._data)[position]), dtype=dtype)
        spec.check_values(tensor)
        return tensor.view(shape)

    def finish(self) -> None:
        """Raises LocalProtocolError where payloads are left without metadata."""
        if next(self._positions, None) is not None:
            raise LocalProtocolError("more payloads than tensors in the message")
