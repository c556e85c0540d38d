"""Open teachers in processes of bounded memory: an attack that works ends its process alone.

A server process imports what opening needs, then forks for each teacher. So a teacher costs
milliseconds, and its process inherits no thread of pytest's.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIMIT_BYTES = 2 << 30
"""Of data of one process, beyond what the server has. Far below what the attacks ask for."""
LIMIT_SECONDS = 60


@dataclass(frozen=True)
class Outcome:
    """What became of a teacher."""

    error: str
    """Class of the exception; "" where it was opened, "killed" where the process ended."""
    message: str
    megabytes: float
    """Peak of resident memory beyond that at the start."""
    logits: list[list[float]] | None = None
    """Of the image that was asked about, where it was opened."""

    def refused(self, message: str, megabytes: float = 350) -> None:
        """Assert that it was refused in one line that has ``message``, and for little memory."""
        assert self.error in ("DataError", "SettingsError"), self
        assert message in self.message, self
        assert "\n" not in self.message
        assert self.megabytes < megabytes, self


class LimitedProcess:
    """A server process; `open` asks it for one teacher."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def open(self, source: str, folder: Path, shade: float = 0.0, **words: Any) -> Outcome:
        """Open a teacher with `fedkd.client.vault.teachers.formats.open_teacher`, and ask it once.

        Args:
            source: of the teacher.
            folder: that it lies in.
            shade: of all pixels of the image that it is asked about.
            words: further keys of [teacher].
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        table = {"source": source, "shape": [1, 8, 8], "classes": 10, **words}
        print(json.dumps([table, str(folder), shade]), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        assert line, "the server itself has ended"
        return Outcome(**json.loads(line))


@contextmanager
def limited_process() -> Iterator[LimitedProcess]:
    """A server for the length of the block."""
    command = [sys.executable, str(Path(__file__))]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True) as process:
        try:
            yield LimitedProcess(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()


def _serve() -> None:
    from fedkd.client.vault.teachers import formats

    assert formats.FORMATS  # imported here, once for all children
    import onnxruntime  # noqa: F401
    import skops.io  # noqa: F401

    for line in sys.stdin:
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read)
            with os.fdopen(write, "w") as answer:
                print(_kilobytes("VmRSS:"), file=answer, flush=True)
                json.dump(_opened(*json.loads(line)), answer)
            os._exit(0)
        os.close(write)
        with os.fdopen(read) as told:
            start, text = int(told.readline()), told.read()
        _, status, used = os.wait4(child, 0)
        if not text or status:
            text = json.dumps({"error": "killed", "message": f"status {status}"})
        megabytes = (used.ru_maxrss - start) / 1024
        print(json.dumps({**json.loads(text), "megabytes": megabytes}), flush=True)


def _kilobytes(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def _opened(table: dict[str, Any], folder: str, shade: float) -> dict[str, Any]:
    import torch

    from fedkd.client.vault.teachers.formats import open_teacher
    from fedkd.client.vault.teachers.teacher_spec import spec_from_table
    from fedkd.protocol import Signal

    warnings.simplefilter("ignore")
    most = _kilobytes("VmData:") * 1024 + LIMIT_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    signal.alarm(LIMIT_SECONDS)
    torch.set_num_threads(1)
    try:
        teacher = open_teacher(spec_from_table(table, Path(folder)))
        image = torch.full((1, *table["shape"]), shade)
        logits = teacher.ask(image, frozenset({Signal.LOGITS}))[Signal.LOGITS]
    except Exception as error:
        return {"error": type(error).__name__, "message": str(error)}
    return {"error": "", "message": "", "logits": logits.tolist()}


if __name__ == "__main__":
    _serve()
