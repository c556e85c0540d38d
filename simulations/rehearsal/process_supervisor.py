"""Processes that live no longer than a block. Knows nothing of what they do."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from fedkd.errors import FedkdError, SettingsError

ENDING = 15.0
"""Seconds that a process may take to end when it is asked to."""
LOOK_AGAIN = 0.1
"""Seconds between looks whether something has happened."""


class Processes:
    """Starts processes, and ends whatever still runs when the block does.

    Each leads a group of its own: Ctrl-C at the terminal reaches us alone, and what a process has
    started ends with it.

    Args:
        folder: for their logs, and where they start, so that they find no package of ours there.
        environment: of all of them.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder, self._environment = folder, dict(environment)
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self._running.values():
            _signal(process, signal.SIGTERM)  # all at once: each takes its time
        for process in self._running.values():
            _end(process)

    def log(self, name: str) -> Path:
        """Where a process writes."""
        return self._folder / f"{name}.log"

    def start(self, name: str, *words: str) -> None:
        """Start one that goes on."""
        with self.log(name).open("wb") as log:
            self._running[name] = subprocess.Popen(
                words,
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def await_that(self, happened: Callable[[], bool], name: str, limit: float) -> None:
        """Return once something has happened that process ``name`` brings about.

        Raises:
            SettingsError: it ended before that, or took longer than ``limit`` seconds.
        """
        deadline = time.monotonic() + limit
        while not happened():
            if (status := self._running[name].poll()) is not None:
                raise SettingsError(f"{name} ended with status {status}: {self._last(name)}")
            if time.monotonic() > deadline:
                raise SettingsError(
                    f"{name} was not ready within {limit:g} s: {self._last(name)}; free the "
                    "machine of other work, or start it by hand"
                )
            time.sleep(LOOK_AGAIN)

    def run(self, name: str, *words: str, limit: float, shown: bool = False) -> str:
        """Run one to its end.

        Args:
            name: of it in an error.
            *words: the command.
            limit: seconds that it may take.
            shown: let it write to our terminal, and return nothing.

        Returns:
            What it wrote to standard output.

        Raises:
            SettingsError: it ended with another status than 0, or took too long.
        """
        caught = None if shown else subprocess.PIPE
        process = subprocess.Popen(
            words,
            cwd=self._folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=caught,
            stderr=caught,
            text=True,
            start_new_session=True,
        )
        try:
            out, error = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            raise SettingsError(f"{name} took more than {limit:g} s; give it more time") from None
        finally:
            _end(process)
        if process.returncode:
            said = (error or out or "see above").strip().splitlines()[-1]
            raise SettingsError(f"{name} ended with status {process.returncode}: {said}")
        return out or ""

    def _last(self, name: str) -> str:
        lines = self.log(name).read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"


Process = subprocess.Popen[bytes] | subprocess.Popen[str]


def _signal(process: Process, number: signal.Signals) -> None:
    # Whatever it has started is in its group, and may outlive it.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _end(process: Process) -> None:
    _signal(process, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(ENDING)
    _signal(process, signal.SIGKILL)
    process.wait()


class Interrupted(FedkdError):  # noqa: N818 -- a wish of the user, not an error of ours
    """Somebody wants everything to end."""


def end_on_signals() -> None:
    """Have SIGTERM and Ctrl-C unwind every block, so that nothing stays behind."""
    known = (signal.SIGTERM, signal.SIGINT)

    def stop(number: int, frame: object) -> None:
        for each in known:  # ending takes a moment, and must not be cut short
            signal.signal(each, signal.SIG_IGN)
        raise Interrupted("interrupted; everything that was started has ended")

    for each in known:
        signal.signal(each, stop)
