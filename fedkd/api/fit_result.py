"""The result of a fit: the student, its classes and scores, its files and its page."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn

from fedkd.core import Score
from fedkd.errors import DataError, SettingsError
from fedkd.server.report.records.run_folder import PAGE


@dataclass(frozen=True, eq=False)
class FitResult:
    """What `fedkd.fit` returns."""

    student: nn.Module
    """Trained and in evaluation mode, in ordinary memory; images in [0, 1], (B, C, H, W) -> (B, K)
    outputs in the order of ``classes``."""
    classes: tuple[str, ...]
    """Names of the student's outputs, (K,): numbers as text where no teacher names its classes;
    of several tasks ``task: class``."""
    result: Mapping[str, Any]
    """What stands in ``result.json``: settings, questions asked, promises, scores."""
    folder: Path
    """Of the run: students, events, page. Without ``out`` it goes when this object does."""
    temporary: TemporaryDirectory[str] | None = None

    @property
    def held_back(self) -> Mapping[str, Score]:
        """How the student does on samples it never learned, against the institutions' answers.

        ``count``, ``agreement``, ``kl``, ``fidelity`` and ``ece``; of several tasks also
        ``task_agreement``, by name of task; of numbers ``r2`` and RMSE. No
        test data is needed for it. Empty where no sample was held back.
        """
        return dict(self.result["student"]["held_back"] or {})

    def save(self, path: str | Path) -> Path:
        """Write the student's weights, to be read by `fedkd.load` or as safetensors.

        Args:
            path: of a file that ends in .safetensors, which is replaced.

        Raises:
            SettingsError: another suffix.
            DataError: it cannot be written.
        """
        return self._copied("student.safetensors", Path(path))

    def export_onnx(self, path: str | Path) -> Path:
        """Write the student as ONNX: images in [0, 1], (batch, C, H, W) -> (batch, K) logits.

        Raises:
            SettingsError: another suffix than .onnx, or the student could not be exported.
            DataError: it cannot be written.
        """
        if skipped := (self.result["onnx"] or {}).get("skipped"):
            raise SettingsError(f"there is no ONNX file of this student: {skipped}")
        return self._copied("student.onnx", Path(path))

    def report(self, path: str | Path | None = None) -> Path:
        """The page of the run, one HTML file without scripts.

        Args:
            path: where it is copied to; None: the one in ``folder``.

        Raises:
            SettingsError: another suffix than .html.
            DataError: it cannot be written.
        """
        return self.folder / PAGE if path is None else self._copied(PAGE, Path(path))

    def _copied(self, name: str, path: Path) -> Path:
        """A file of the run, copied."""
        suffix = Path(name).suffix
        if path.suffix != suffix:
            raise SettingsError(f"{path}: expected a file that ends in {suffix}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.folder / name, path)
        except OSError as error:
            raise DataError(f"cannot write {path}: {error.strerror}; name another file") from error
        return path

    def __repr__(self) -> str:
        scores = ", ".join(
            f"{k}={v:.4g}" for k, v in self.held_back.items() if isinstance(v, int | float)
        )
        return f"FitResult({len(self.classes)} classes, held back: {scores or 'nothing'})"
