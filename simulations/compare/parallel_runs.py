"""Several runs of a comparison at a time, each in a process of its own, for ``--jobs N``.

Runs with the same teachers wait until one of them has trained these, so that no teacher is trained
twice. What a run prints is in ``FOLDER.log`` beside its folder.
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from fedkd.errors import FedkdError, SettingsError
from fedkd.experiment import parse_experiment
from fedkd.server.report.records.run_folder import EVENTS
from fedkd.server.run import console as server_console
from fedkd.server.run.resume_hint import complete_interrupted_run
from fedkd.simulations.compare.planned_run import CHECKPOINT, PlannedRun
from fedkd.simulations.run import resume, run, teacher_fingerprint

_Running: TypeAlias = dict[Path, tuple[subprocess.Popen[bytes], PlannedRun]]
"""Process and plan of the runs in progress, by folder."""
_POLL_SECONDS = 0.2
_FAILED = 2
"""Exit status of a run that ends with one of our errors."""


def execute_in_parallel(
    plan: Sequence[PlannedRun], states: Sequence[str], jobs: int
) -> dict[Path, FedkdError]:
    """Execute all runs that are not finished, ``jobs`` at a time.

    Args:
        plan: all runs.
        states: of each, ``finished``, ``begun`` or ``nothing``.
        jobs: processes, > 1.

    Returns:
        The errors of failed runs, by folder.
    """
    waiting: list[tuple[PlannedRun, bool]] = []
    for planned, state in zip(plan, states, strict=True):
        if state == "finished":  # it may have been killed after its result was written
            complete_interrupted_run(planned.path)
        else:
            waiting.append((planned, state == "begun"))
    running: _Running = {}
    failed: dict[Path, FedkdError] = {}
    total = len(waiting)
    try:
        while waiting or running:
            if len(running) < jobs:
                _start_one(waiting, running)
            for path in _ended(running):
                if running.pop(path)[0].returncode:
                    failed[path] = _error(path)
                done = total - len(waiting) - len(running)
                outcome = f"failed: {failed[path]}" if path in failed else "finished"
                server_console.console.print(
                    f"{done} of {total}: {path.name} {outcome}", soft_wrap=True, markup=False
                )
            time.sleep(_POLL_SECONDS)
    finally:
        for process, _ in running.values():
            process.terminate()
        for process, _ in running.values():
            process.wait()
    if len(failed) == total > 0:  # an error of them all is one of the command
        raise next(iter(failed.values()))
    return failed


def _start_one(waiting: list[tuple[PlannedRun, bool]], running: _Running) -> None:
    """Start the first run whose teachers nobody is training right now, if there is one."""
    for number, (planned, begun) in enumerate(waiting):
        if not _teachers_in_training(planned, running):
            running[planned.path] = _start(planned, begun), planned
            del waiting[number]
            return


def _ended(running: _Running) -> list[Path]:
    return [path for path, (process, _) in running.items() if process.poll() is not None]


def _teachers_in_training(planned: PlannedRun, running: _Running) -> bool:
    """Whether a run in progress trains the same teachers: it has recorded nothing yet."""
    own = teacher_fingerprint(planned.experiment)
    return any(
        teacher_fingerprint(other.experiment) == own and not (path / EVENTS).exists()
        for path, (_, other) in running.items()
    )


def _log_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.log")


def _start(planned: PlannedRun, begun: bool) -> subprocess.Popen[bytes]:
    planned.path.parent.mkdir(parents=True, exist_ok=True)
    task = {
        "experiment": planned.experiment.model_dump(mode="json"),
        "path": str(planned.path),
        "begun": begun,
    }
    with _log_file(planned.path).open("wb") as log:
        process = subprocess.Popen(
            # -P: a module of the user's working directory hides none of ours.
            [sys.executable, "-P", "-m", "fedkd.simulations.compare.run_in_child"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
        )
    assert process.stdin is not None
    process.stdin.write(json.dumps(task).encode())
    process.stdin.close()
    return process


def _error(path: Path) -> FedkdError:
    """The last line that a failed run has printed."""
    lines = _log_file(path).read_text(errors="replace").strip().splitlines() or ["no message"]
    return SettingsError(f"{lines[-1].removeprefix('fedkd: ')} ({_log_file(path)})")


def run_task(text: bytes) -> int:
    """What a process does: the run that ``text`` describes; returns its exit status."""
    task = json.loads(text)
    path = Path(task["path"])
    try:
        if task["begun"]:
            resume(path)
        else:
            run(parse_experiment(task["experiment"]), "local", path, checkpoint=CHECKPOINT)
    except FedkdError as error:
        print(f"fedkd: {error}", file=sys.stderr)
        return _FAILED
    return 0
