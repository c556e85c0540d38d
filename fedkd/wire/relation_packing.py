"""Packing of rounded relations: one byte for each pair of samples instead of two float16.

Contents of a (B, B) tensor: the lower triangle with its diagonal, row after row, as int8 steps of
1/127. Packing is lossless; what is not symmetric or not on these steps travels as float16.
"""

import numpy as np
import torch
from torch import Tensor

from fedkd.errors import LocalProtocolError
from fedkd.protocol.relations import relation_steps, relations_of_steps


def pack_relations(relations: Tensor) -> np.ndarray | None:
    """Pack (B, B) float16 relations, finite and on a CPU.

    Returns:
        Bytes, (B (B + 1) / 2,) int8; None where packing would lose something.
    """
    steps = relation_steps(relations)
    # Bits are compared and not numbers, or a zero would lose its sign.
    if not torch.equal(relations_of_steps(steps).view(torch.int16), relations.view(torch.int16)):
        return None
    packed: np.ndarray = steps.numpy()[np.tril_indices(len(relations))]
    return packed


def unpack_relations(contents: memoryview, batch: int, other: int) -> Tensor:
    """Unpack (B, B) float16 relations.

    Raises:
        LocalProtocolError: not the contents of a square matrix of that size.
    """
    if batch != other or len(contents) != batch * (batch + 1) // 2:
        raise LocalProtocolError(f"{len(contents)} bytes for packed relations ({batch}, {other})")
    lower = np.frombuffer(contents, np.int8)
    if lower.min() < -127:
        raise LocalProtocolError("packed relations below -1")
    # Row by row, since the peer that sent this is not trusted with a multiple of it in memory.
    values = relations_of_steps(torch.from_numpy(lower.copy())).numpy()
    relations = np.empty((batch, batch), np.float16)
    start = 0
    for row in range(batch):
        stop = start + row + 1
        relations[row, : row + 1] = relations[: row + 1, row] = values[start:stop]
        start = stop
    return torch.from_numpy(relations)
