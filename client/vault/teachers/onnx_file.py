"""Teacher format ``onnx:FILE``: a network in ONNX, run by onnxruntime on the CPU; no gradient.

An ONNX file is data, and runs no code of its own.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedkd.client.vault.teachers.logits_only_teacher import LogitsTeacher, input_layout
from fedkd.client.vault.teachers.teacher_spec import TeacherSpec
from fedkd.errors import DataError, SettingsError
from fedkd.models import CHUNK


def open_onnx(spec: TeacherSpec, name: str) -> LogitsTeacher:
    """See the module.

    Raises:
        SettingsError: onnxruntime is not installed, or an input or output is not named.
        DataError: the file cannot be read, or its input takes other images.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise SettingsError("onnxruntime is not installed; install fedkd[onnx]") from error

    path = spec.path(name)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # what goes wrong is raised, too
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common root but this
        raise DataError(
            f"{path} cannot be opened as ONNX ({type(error).__name__}); export it again"
        ) from error
    source = select_tensor(session.get_inputs(), spec.input_name, "input_name", spec)
    output = select_tensor(session.get_outputs(), spec.output_name, "output_name", spec)
    if source.type != "tensor(float)":
        raise DataError(f"{path} reads {source.type}, expected tensor(float); export it in float32")

    def score_batch(pixels: NDArray[np.float32]) -> NDArray[Any]:
        return np.asarray(session.run([output.name], {source.name: pixels})[0])

    return input_layout(source.shape, spec).teacher(score_batch, spec, CHUNK)


def select_tensor(among: list[Any], name: str | None, field: str, spec: TeacherSpec) -> Any:
    """The input or output of that name, or the only one.

    Raises:
        SettingsError: there is none, or there are several and the owner has not named one.
    """
    fitting = [one for one in among if name in (None, one.name)]
    if len(fitting) != 1:
        names = ", ".join(one.name for one in among) or "none"
        raise SettingsError(f"{spec.source} offers {names}; give {field}, one of them")
    return fitting[0]
