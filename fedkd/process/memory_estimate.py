"""Memory that a run will need, estimated before it is allocated, and what this machine has."""

import math
import os
from collections.abc import Mapping
from pathlib import Path

from fedkd.errors import SettingsError

CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
"""Memory limit of a container."""
UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB")


def machine_memory() -> int:
    """Bytes of memory that this machine has, or that its container may use."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(physical, int(CGROUP_LIMIT.read_text()))
    except (OSError, ValueError):  # no container, or no limit
        return physical


def check_memory(needs: Mapping[str, int], memory: int | None = None) -> None:
    """Check that what will be allocated fits the machine.

    Args:
        needs: what it is for -> bytes.
        memory: bytes; None for those of the machine.

    Raises:
        SettingsError: one of ``needs``, or all together, exceed the memory; names the largest.
    """
    limit, total = machine_memory() if memory is None else memory, sum(needs.values())
    if total > limit:
        largest = max(needs, key=needs.__getitem__)
        raise SettingsError(
            f"{largest} would take {in_bytes(needs[largest])} of {in_bytes(total)} in all, and "
            f"this machine has {in_bytes(limit)}; ask institutions of fewer classes or smaller "
            "images, or set questions.capacity"
        )


def bank_bytes(rows: int, shape: tuple[int, int, int], classes: int) -> int:
    """Of a bank: images in a byte a value, targets in four."""
    return rows * (math.prod(shape) + 4 * classes)


def outputs_bytes(batch: int, shape: tuple[int, int, int], classes: int) -> int:
    """Of one batch through the student: images, outputs, and gradients of both, in float32."""
    return 8 * batch * (math.prod(shape) + classes)


def fusion_bytes(institutions: int, batch: int, classes: int, *, pool: bool) -> int:
    """Of one fusion: all logits twice in float32; the log-linear pool's matrix twice in float64."""
    matrix = 16 * institutions * classes * classes if pool else 0
    return 8 * institutions * batch * classes + matrix


def in_bytes(count: int) -> str:
    """A number of bytes for people: 1.2 GB."""
    power = min(int(math.log(max(count, 1), 1000)), len(UNITS) - 1)
    return f"{count / 1000**power:.3g} {UNITS[power]}"
