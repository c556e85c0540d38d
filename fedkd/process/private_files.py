"""Folders and files that only their owner may read, whatever the umask."""

import os
from pathlib import Path

FOLDER_MODE = 0o700
FILE_MODE = 0o600


def make_private_folder(path: Path) -> None:
    """Make a folder, with its parents, or close one that is there to others.

    Raises:
        OSError: it cannot be made, or is somebody else's.
    """
    path.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    path.chmod(FOLDER_MODE)  # the umask may have taken bits, and a folder may have been there


def private_opener(path: str, flags: int) -> int:
    """An opener for `open`: the file is its owner's alone from the moment that it is there."""
    descriptor = os.open(path, flags, FILE_MODE)
    os.fchmod(descriptor, FILE_MODE)
    return descriptor


def make_private(path: Path) -> None:
    """Close a file to others that a library has written; nothing where there is none."""
    if path.exists():
        path.chmod(FILE_MODE)
