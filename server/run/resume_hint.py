"""Interrupted runs: print how to resume one, complete one that lacks only its report page."""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedkd.errors import FedkdError
from fedkd.server.report.page import build_report
from fedkd.server.report.records.run_folder import PAGE, RESULT, lock_folder
from fedkd.server.run.checkpoint import FOLDER, Checkpoint


@contextmanager
def resume_hint(checkpoint: Checkpoint | None, command: str) -> Iterator[None]:
    """Print ``command`` if the block is interrupted, and close the checkpoint in any case.

    Args:
        checkpoint: of the run; None for none.
        command: the one that resumes the run.
    """
    if checkpoint is None:
        yield
        return
    try:
        yield
    except KeyboardInterrupt:
        print(f"fedkd: go on with: {command}", file=sys.stderr)
        raise
    except FedkdError:
        checkpoint.discard()
        if checkpoint.questions:
            print(f"fedkd: go on with: {command}", file=sys.stderr)
        raise
    finally:
        checkpoint.close()


def complete_interrupted_run(path: Path) -> dict[str, Any] | None:
    """Complete a run that was killed after its result was written: page, no checkpoint.

    Args:
        path: of its folder.

    Returns:
        The content of its ``result.json``; None if the run is complete, or not finished.

    Raises:
        SettingsError: another process uses the folder.
        DataError: its files cannot be read.
    """
    checkpoint, result = path / FOLDER, path / RESULT
    if not result.exists() or ((path / PAGE).exists() and not checkpoint.exists()):
        return None
    lock = lock_folder(path)
    try:
        build_report(path)
        shutil.rmtree(checkpoint, ignore_errors=True)
    finally:
        os.close(lock)
    content: dict[str, Any] = json.loads(result.read_bytes())
    return content
