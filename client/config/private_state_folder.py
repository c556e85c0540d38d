"""The owner's state folder: check its permissions, lock it for one process."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedkd.errors import SettingsError


def ensure_private_folder(folder: Path) -> Path:
    """The folder, created where there is none, and readable to the owner alone.

    Raises:
        SettingsError: it cannot be created, or is open to others.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        others = folder.stat().st_mode & 0o077
    except OSError as error:
        raise SettingsError(
            f"cannot keep anything in {folder}: {error.strerror}; make it writable, or name "
            "another state.folder"
        ) from error
    if others:
        raise SettingsError(f"{folder} is open to others (mode {others:03o}); chmod 700 it")
    return folder


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the exclusive lock of this folder until the block ends.

    Raises:
        SettingsError: another process holds it, or as `ensure_private_folder`.
    """
    try:
        lock = os.open(
            ensure_private_folder(folder) / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
    except OSError as error:
        raise SettingsError(f"cannot lock {folder}: {error.strerror}; make it writable") from error
    try:
        # The system releases it when the process ends, however it ends.
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise SettingsError(
            f"another fedkd-client works in {folder}; stop it, or give this institution a "
            "state.folder of its own"
        ) from None
    try:
        yield
    finally:
        os.close(lock)
