"""Start child processes and their process groups, and end all of them when a block ends."""

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

EXIT_TIMEOUT = 15.0
"""Seconds that a process may take to exit after SIGTERM."""
POLL_INTERVAL = 0.1
"""Seconds between two checks of a condition."""


class ProcessSupervisor:
    """Starts processes, and ends those that still run when the block ends.

    Each leads a process group of its own: Ctrl-C at the terminal reaches only this process, and the
    children of a process end with it.

    Args:
        folder: of their logs, and their working directory, where no package can be imported from.
        environment: of all processes.
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
            _signal(process, signal.SIGTERM)  # all at once: each takes time to exit
        for process in self._running.values():
            _end(process)

    def log(self, name: str) -> Path:
        """Log file of a process."""
        return self._folder / f"{name}.log"

    def start(self, name: str, *command: str) -> None:
        """Start a process in the background."""
        with self.log(name).open("wb") as log:
            self._running[name] = subprocess.Popen(
                command,
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_for(self, condition: Callable[[], bool], name: str, limit: float) -> None:
        """Wait until a condition is true that process ``name`` brings about.

        Raises:
            SettingsError: the process ended before, or ``limit`` seconds passed.
        """
        deadline = time.monotonic() + limit
        while not condition():
            if (status := self._running[name].poll()) is not None:
                raise SettingsError(f"{name} ended with status {status}: {self._last_line(name)}")
            if time.monotonic() > deadline:
                raise SettingsError(
                    f"{name} was not ready within {limit:g} s: {self._last_line(name)}; free the "
                    "machine of other work, or start it by hand"
                )
            time.sleep(POLL_INTERVAL)

    def run(self, name: str, *command: str, limit: float, inherit_output: bool = False) -> str:
        """Run a process to its end.

        Args:
            name: of the process in errors.
            *command: program and arguments.
            limit: seconds that it may take.
            inherit_output: let it write to our terminal, and return nothing.

        Returns:
            What it wrote to standard output.

        Raises:
            SettingsError: it ended with another status than 0, or took too long.
        """
        pipe = None if inherit_output else subprocess.PIPE
        process = subprocess.Popen(
            command,
            cwd=self._folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=pipe,
            stderr=pipe,
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
            message = (error or out or "see above").strip().splitlines()[-1]
            raise SettingsError(f"{name} ended with status {process.returncode}: {message}")
        return out or ""

    def _last_line(self, name: str) -> str:
        lines = self.log(name).read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "no output"


Process = subprocess.Popen[bytes] | subprocess.Popen[str]


def _signal(process: Process, number: signal.Signals) -> None:
    # Its children are in its group, and may outlive it.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _end(process: Process) -> None:
    _signal(process, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(EXIT_TIMEOUT)
    _signal(process, signal.SIGKILL)
    process.wait()


class Interrupted(FedkdError):  # noqa: N818 -- a wish of the user, not an error
    """SIGTERM or Ctrl-C: all processes shall end."""


def exit_on_signals() -> None:
    """Have SIGTERM and Ctrl-C unwind all blocks, so that no process is left."""
    ending_signals = (signal.SIGTERM, signal.SIGINT)

    def stop(number: int, frame: object) -> None:
        for each in ending_signals:  # ending takes a moment, and must not be interrupted
            signal.signal(each, signal.SIG_IGN)
        raise Interrupted("interrupted; everything that was started has ended")

    for each in ending_signals:
        signal.signal(each, stop)
