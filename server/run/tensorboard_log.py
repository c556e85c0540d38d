"""TensorBoard log of a run: a `fedkd.loop.Watch` that writes its curves; an extra.

Files are in ``tensorboard/`` of the run's folder: ``tensorboard --logdir runs`` shows all runs.
"""

import importlib.util
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fedkd.errors import SettingsError
from fedkd.loop import Progress, Watch
from fedkd.process.private_files import make_private_folder

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FOLDER = "tensorboard"
_CURVES = {
    "asked": ("entropy",),
    "trained": ("loss", "difficulty", "weight", "curriculum_lambda"),
    "scored": ("accuracy", "all_tasks_accuracy", "r2"),
    "held_back": ("agreement", "kl", "fidelity", "ece", "r2", "rmse_of_range"),
}
"""Facts that are numbers, by kind of event."""
_FAMILIES = {"generated": "terms", "trained": "difficulty_by_institution", "weighed": "weights"}
"""Facts that have a number for each name, by kind of event."""


def check_tensorboard() -> None:
    """Check that TensorBoard is installed.

    Raises:
        SettingsError: it is not.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise SettingsError("--tensorboard needs TensorBoard; install fedkd[tensorboard]")


class TensorBoardLog:
    """Writes every number of an event as a scalar, at the student's step.

    The files are made at the first event, once the run has made its folder.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._step = folder / FOLDER, 0
        self._writer: SummaryWriter | None = None

    def __call__(self, progress: Progress) -> None:
        """Write one event."""
        facts = progress.facts
        if progress.kind in ("trained", "scored", "held_back"):
            self._step = int(str(facts["step"]))
        for name in _CURVES.get(progress.kind, ()):
            self._write(f"{progress.kind}/{name}", facts.get(name))
        family = facts.get(_FAMILIES.get(progress.kind, ""))
        if isinstance(family, Mapping):
            for name, value in family.items():
                self._write(f"{progress.kind} by name/{' '.join(str(name).split())}", value)
        if progress.kind == "trained":
            self._write("trained/samples asked", facts.get("asked"))

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.close()

    def _write(self, tag: str, value: object) -> None:
        if isinstance(value, int | float):
            self._opened().add_scalar(tag, value, self._step)

    def _opened(self) -> "SummaryWriter":
        if self._writer is None:
            os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # it looks for TensorFlow, aloud
            from torch.utils.tensorboard import SummaryWriter

            make_private_folder(self._folder)
            self._writer = SummaryWriter(str(self._folder))
        return self._writer


@contextmanager
def tensorboard_log(folder: Path, wanted: bool) -> Iterator[tuple[Watch, ...]]:
    """Listeners that write the log of the run in ``folder``; none where it is not wanted."""
    if not wanted:
        yield ()
        return
    log = TensorBoardLog(folder)
    try:
        yield (log,)
    finally:
        log.close()
