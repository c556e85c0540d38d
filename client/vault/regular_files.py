"""Read files that somebody else made: regular files only, opened once, of bounded size.

What is checked and what is used are the same bytes, so a file that changes meanwhile changes
nothing. A pipe or a device, which may never end, is refused without a byte read.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from fedkd.errors import DataError

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


@contextmanager
def open_regular_file(path: Path, *, follow_links: bool = True) -> Iterator[tuple[BinaryIO, int]]:
    """An open file, and its size in bytes.

    Args:
        path: of the file.
        follow_links: whether ``path`` itself may be a symbolic link.

    Raises:
        DataError: it cannot be read, or is no regular file.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow_links else os.O_NOFOLLOW)
    if not follow_links and path.is_symlink():
        raise DataError(f"{path} is a symbolic link; put the file itself in its place")
    try:
        # Without blocking: opening a pipe would wait for somebody who writes into it.
        descriptor = os.open(path, flags)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no such name is possible"
        raise DataError(f"{path} cannot be read ({reason}); name a file that can") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            kind = KINDS.get(stat.S_IFMT(status.st_mode), "no file")
            raise DataError(f"{path} is {kind}, expected a regular file; name the model's file")
        with open(descriptor, "rb", closefd=False) as file:
            yield file, status.st_size
    finally:
        os.close(descriptor)


def read_regular_file(path: Path, limit: int, *, follow_links: bool = True) -> bytes:
    """The content of a file, read once.

    Args:
        path: of the file.
        limit: most bytes that it may have.
        follow_links: see `open_regular_file`.

    Raises:
        DataError: it cannot be read, is no regular file, is larger, or changes while it is read.
    """
    with open_regular_file(path, follow_links=follow_links) as (file, size):
        if size > limit:
            raise DataError(f"{path} has {size} bytes, expected at most {limit}; see what it is")
        return read_exactly(file, size, path)


def read_exactly(file: BinaryIO, count: int, path: Path) -> bytes:
    """The next ``count`` bytes of an open file; ``path`` is for the error.

    Raises:
        DataError: there are fewer: the file was cut while it was read.
    """
    content = file.read(count)
    if len(content) < count:
        raise DataError(f"{path} changed while it was read; open it when it is complete")
    return content
