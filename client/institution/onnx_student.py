"""Open a student in ONNX, as a run exports it, to score it on private test data.

The file is opened as an ONNX teacher is, with the same checks and limits: it came from elsewhere.
"""

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fedkd.client.institution.student_weight_loading import OpenedStudent, student_classes
from fedkd.client.vault.regular_files import read_regular_file
from fedkd.client.vault.teachers.file_checks.memory_limit import limited_memory, memory_limit
from fedkd.client.vault.teachers.file_checks.onnx_model_checks import parse_model
from fedkd.client.vault.teachers.file_openers.onnx_file import MAX_MODEL_BYTES, open_onnx
from fedkd.client.vault.teachers.teacher_spec import TeacherSpec
from fedkd.errors import DataError, SettingsError
from fedkd.models import Shape, Teacher
from fedkd.protocol import Signal

SUFFIX = ".onnx"
METADATA = "fedkd"
"""Key of the metadata that a run writes."""
LOGITS = frozenset({Signal.LOGITS})


class _AskedNetwork(nn.Module):
    """A teacher that gives logits, as a network."""

    def __init__(self, teacher: Teacher) -> None:
        super().__init__()
        self._teacher = teacher

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] -> (B, K)."""
        return self._teacher.ask(x, LOGITS)[Signal.LOGITS]


def open_onnx_student(path: Path, shape: Shape, outputs: int) -> OpenedStudent:
    """The student in an ONNX file.

    Args:
        path: of the file.
        shape: (C, H, W) of the test data, where the file does not say what it reads.
        outputs: K, likewise.

    Raises:
        SettingsError: onnxruntime is not installed.
        DataError: it cannot be read, or reads other samples than the test data are.
    """
    if find_spec("onnx") is None or find_spec("onnxruntime") is None:
        raise SettingsError("onnxruntime is not installed; install fedkd[onnx]")
    source = f"onnx:{path.name}"
    spec = TeacherSpec(source, shape, classes=outputs, folder=path.parent)
    content = read_regular_file(path, min(memory_limit(spec), MAX_MODEL_BYTES))
    try:
        notes = _notes(parse_model(content, path))
        names, classes = student_classes(notes), int(notes.get("classes", outputs))
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        raise DataError(
            f"{path} has metadata that cannot be read; export the student again"
        ) from None
    with limited_memory(memory_limit(spec)):
        teacher = open_onnx(replace(spec, classes=classes), path.name)
    return OpenedStudent(_AskedNetwork(teacher), names)


def _notes(model: Any) -> dict[str, Any]:
    """What a run wrote into the metadata; empty for a file of somebody else's."""
    properties = {each.key: each.value for each in model.metadata_props}
    return dict(json.loads(properties.get(METADATA, "{}")))
