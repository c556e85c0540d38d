"""Commands in processes of their own, forked from one that has imported everything.

A new interpreter takes ten seconds to import what a run needs; a forked one takes none. Tests of
what is imported, and from where, start interpreters of their own.
"""

import importlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import CompletedProcess, TimeoutExpired

from fedkd.simulations.checks.resume import FORKSERVER, prepare_forkserver

TIMEOUT = 280.0
COMMANDS = {
    "fedkd": "fedkd.simulations.cli",
    "fedkd-client": "fedkd.client.cli",
    "fedkd-server": "fedkd.server.cli",
}
"""The module whose ``main`` a command is."""


class ForkedCommand:
    """A command that runs; what it prints goes into files.

    Args:
        words: the first is one of `COMMANDS`.
        folder: the working directory.
        output: file that standard output is added to.
        errors: file that standard error is added to.
        site: folder of packages, as if it were installed.
        environment: variables that are set besides.
    """

    def __init__(
        self,
        words: Sequence[str],
        folder: Path,
        output: Path,
        errors: Path,
        *,
        site: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        prepare_forkserver()
        for file in (output, errors):
            file.touch()
        self.words = tuple(words)
        variables = {**(environment or {}), **({"PYTHONPATH": str(site)} if site else {})}
        arguments = (self.words, folder, variables, (output, errors))
        self._process = FORKSERVER.Process(target=_main, args=arguments)
        self._process.start()

    @property
    def returncode(self) -> int | None:
        """Exit status, or the signal that ended it, as a negative number; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        self._process.kill()

    def wait(self, timeout: float | None = None) -> int:
        """The exit status; raises `subprocess.TimeoutExpired`."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise TimeoutExpired(self.words, timeout or 0)
        return self._process.exitcode


def run_forked(
    words: Sequence[str],
    folder: Path,
    *,
    site: Path | None = None,
    environment: Mapping[str, str] | None = None,
    timeout: float = TIMEOUT,
) -> CompletedProcess[str]:
    """A command that has ended, and what it printed; for arguments see `ForkedCommand`."""
    files = [folder / f"printed.{stream}" for stream in ("output", "errors")]
    for file in files:
        file.unlink(missing_ok=True)
    command = ForkedCommand(words, folder, *files, site=site, environment=environment)
    try:
        status = command.wait(timeout)
    finally:
        command.kill()
        command.wait()
    return CompletedProcess(words, status, *(file.read_text() for file in files))


def fedkd(words: Sequence[str], folder: Path, *, site: Path | None = None) -> str:
    """What ``fedkd`` with ``words`` prints, once it has ended well."""
    done = run_forked(["fedkd", *words], folder, site=site)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def run_main(words: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
    """Be the command ``words`` in this process, in ``folder``, with these variables besides."""
    os.chdir(folder)
    os.environ.update(environment)
    sys.path[:0] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    sys.argv = list(words)
    importlib.import_module(COMMANDS[words[0]]).main()


def _main(
    words: tuple[str, ...], folder: Path, environment: dict[str, str], files: tuple[Path, Path]
) -> None:
    for stream, path in zip((sys.stdout, sys.stderr), files, strict=True):
        with path.open("a") as file:
            os.dup2(file.fileno(), stream.fileno())
    run_main(words, folder, {"COLUMNS": "200", "OMP_NUM_THREADS": "1", **environment})
