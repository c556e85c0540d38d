"""Packing of quantised logits: one byte for each number instead of float16.

Contents of a (B, K) tensor, one part after the other:

    B exponents      int8      of each row's step, 2**k; `UNPACKED` where it has no grid
    B first steps    int16     of each row, from zero; 0 where it has no grid
    steps            uint8     K from its first, of each row with a grid
    numbers          float16   K of each row without a grid

Packing is lossless. See `fedkd.protocol.logit_quantisation` for which rows have a grid.
"""

import numpy as np
import torch
from torch import Tensor

from fedkd.errors import LocalProtocolError
from fedkd.protocol.logit_quantisation import (
    MAX_EXPONENT,
    MAX_STEP_INDEX,
    MIN_EXPONENT,
    STEP_LENGTHS,
    quantisation_steps,
    step_length,
)

PACKING_VERSION = 1
"""Version of this format: a coordinator states in its Welcome which one it reads."""
UNPACKED = 127
"""Stands instead of the exponent of a row that is sent as float16."""
ROW_HEADER_BYTES = 3
"""Bytes of a row in addition to its numbers."""

_STEPS = STEP_LENGTHS.numpy()


def pack(rows: Tensor) -> np.ndarray | None:
    """Pack (B, K) float16 rows, finite, contiguous and on a CPU.

    Returns:
        Bytes, (n,) uint8; None where packing would not make them fewer.
    """
    batch, classes = rows.shape
    indices, first, steps = quantisation_steps(rows.float())
    # Bits are compared and not numbers, or a zero would lose its sign.
    bits, numbers = rows.view(torch.int16), (steps * step_length(indices)).half().view(torch.int16)
    codes = steps.sub_(first[:, None]).byte().numpy()
    exponents, firsts = (indices + MIN_EXPONENT).numpy(), first.numpy()
    parts = [exponents, firsts, codes]
    if not torch.equal(bits, numbers):
        on = (bits == numbers).all(1).numpy()
        parts = [np.where(on, exponents, UNPACKED), np.where(on, firsts, 0), codes[on]]
        parts.append(rows.numpy()[~on])
    if ROW_HEADER_BYTES * batch >= len(parts[2]) * classes:
        return None
    parts[:2] = parts[0].astype(np.int8), parts[1].astype("<i2")
    return np.concatenate([part.reshape(-1).view(np.uint8) for part in parts])


def unpack(contents: memoryview, batch: int, classes: int) -> Tensor:
    """Unpack (B, K) float16 rows; those without a grid may hold any float16 values.

    Raises:
        LocalProtocolError: not the contents of that many rows, or longer than float16.
    """
    if ROW_HEADER_BYTES * batch > len(contents):
        raise LocalProtocolError(f"{len(contents)} bytes for {batch} packed rows")
    exponents = np.frombuffer(contents, np.int8, batch)
    firsts = np.frombuffer(contents, "<i2", batch, batch)
    on = exponents != UNPACKED
    packed = int(on.sum())
    plain_at = ROW_HEADER_BYTES * batch + packed * classes
    size = plain_at + 2 * (batch - packed) * classes
    if len(contents) != size or size >= 2 * batch * classes:
        raise LocalProtocolError(f"{len(contents)} bytes for packed rows ({batch}, {classes})")
    codes = np.frombuffer(contents, np.uint8, packed * classes, ROW_HEADER_BYTES * batch)
    if packed == batch:
        return torch.from_numpy(_numbers(exponents, firsts, codes.reshape(batch, classes)))
    if firsts[~on].any():
        raise LocalProtocolError("a first step of a row without a grid")
    rows = np.empty((batch, classes), np.float16)
    rows[on] = _numbers(exponents[on], firsts[on], codes.reshape(packed, classes))
    rows[~on] = np.frombuffer(contents, "<f2", offset=plain_at).reshape(-1, classes)
    return torch.from_numpy(rows)


def _numbers(exponents: np.ndarray, firsts: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Values of n rows with grids, (n, K) float16."""
    if exponents.min() < MIN_EXPONENT or exponents.max() > MAX_EXPONENT:
        raise LocalProtocolError("packed rows of steps that float16 does not have")
    steps = codes + firsts[:, None].astype(np.float32)
    if firsts.min() < -MAX_STEP_INDEX or steps.max() > MAX_STEP_INDEX:
        raise LocalProtocolError("packed rows with numbers that float16 does not have")
    steps *= _STEPS[exponents.astype(np.intp) - MIN_EXPONENT][:, None]
    return steps.astype(np.float16)
