"""Unexpected exceptions of a command: one line on standard error, the traceback in a file."""

import os
import sys
import tempfile
import traceback

from fedkd.process.missing_packages import missing_package

STATUS, EXPECTED_STATUS = 1, 2
"""Exit statuses, of unexpected and of expected errors."""


def report_unexpected(command: str, error: BaseException) -> int:
    """Print what happened in one line, and where the traceback is; returns the exit status.

    A package of an extra that is not installed is expected: then the line says what to install.
    A traceback may hold paths and values of a run, so the file is its owner's alone.

    Args:
        command: that was running, by which the line begins.
        error: unexpected.
    """
    if missing := missing_package(error):
        print(f"{command}: {missing}", file=sys.stderr)
        return EXPECTED_STATUS
    text = " ".join(str(error).split())[:500]
    what = f"{type(error).__name__}: {text}" if text else type(error).__name__
    try:
        descriptor, path = tempfile.mkstemp(prefix=f"{command}-", suffix=".log")
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace") as file:
            traceback.print_exception(error, file=file)
        where = f"the traceback is in {path}; please report it"
    except OSError as full:
        where = f"and no file for the traceback could be written: {full.strerror}"
    print(f"{command}: unexpected {what}; {where}", file=sys.stderr)
    return STATUS
