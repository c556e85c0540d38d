"""How much memory a brought teacher may take, and a limit on the process while it is opened.

Most formats can describe more numbers than their file holds. So the kernel refuses the process more
memory than the limit while a teacher is opened and tried (RLIMIT_DATA, Linux). The limit ends with
that: later answers are bounded where a format has a bound of its own, see `onnx_file`.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedkd.client.vault.teachers.teacher_spec import TeacherSpec

SHARE = 0.75
"""Of the machine's or container's memory, where the owner names no limit."""
GIB = 1 << 30
CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")
"""Of the container in bytes, or the word max."""
EXHAUSTED = ("allocate memory", "bad_alloc", "available memory of", "out of memory")
"""What libraries say, in lower case, when they get no more memory."""

_only_one = threading.Lock()


def memory_limit(spec: TeacherSpec) -> int:
    """Most bytes that this teacher may take beyond what the process has already."""
    if spec.memory is not None:
        return int(spec.memory * GIB)
    return int(SHARE * _machine_memory())


@contextmanager
def limited_memory(extra: int) -> Iterator[None]:
    """A block in which this process can allocate at most ``extra`` bytes more; one at a time.

    The limit holds for all threads. Where the system knows none (not Linux), nothing is limited.
    """
    used = _data_bytes()
    if used is None:
        yield
        return
    import resource

    with _only_one:
        before = resource.getrlimit(resource.RLIMIT_DATA)
        unlimited = resource.RLIM_INFINITY
        ceilings = [value for value in before if value != unlimited]
        resource.setrlimit(resource.RLIMIT_DATA, (min([used + extra, *ceilings]), before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_DATA, before)


def ran_out_of_memory(error: BaseException | None) -> bool:
    """Whether an exception, or one that caused it, says that there was no more memory."""
    while error is not None:
        text = str(error).lower()
        if isinstance(error, MemoryError) or any(words in text for words in EXHAUSTED):
            return True
        error = error.__cause__
    return False


def _machine_memory() -> int:
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        return min(machine, int(CONTAINER_LIMIT.read_text()))
    except (OSError, ValueError):
        return machine


def _data_bytes() -> int | None:
    """Bytes that count against RLIMIT_DATA now; None where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:"))
    except (OSError, StopIteration, ValueError):
        return None
