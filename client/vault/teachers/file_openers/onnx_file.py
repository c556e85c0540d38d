"""Teacher format ``onnx:FILE``: a network in ONNX, run by onnxruntime on the CPU; no gradient.

An ONNX file is data, and runs no code of its own. What it computes may still take any memory: a
node can repeat or expand a tensor at will. So all tensors are in an arena of onnxruntime's with a
fixed end. Onnxruntime's computations before the first question (constant folding) know no arena,
and are switched off. Nothing bounds how long an answer takes.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedkd.client.vault.regular_files import read_regular_file
from fedkd.client.vault.teachers.adapters.logits_only_teacher import LogitsTeacher, input_layout
from fedkd.client.vault.teachers.file_checks.memory_limit import memory_limit
from fedkd.client.vault.teachers.file_checks.onnx_model_checks import parse_model, read_weight_files
from fedkd.client.vault.teachers.teacher_spec import TeacherSpec
from fedkd.errors import DataError, SettingsError
from fedkd.models import CHUNK

MAX_MODEL_BYTES = (1 << 31) - 1
"""Of the file itself, by protobuf; larger networks keep their weights beside it."""


def open_onnx(spec: TeacherSpec, name: str) -> LogitsTeacher:
    """See the module.

    Raises:
        SettingsError: onnxruntime is not installed, or an input or output is not named.
        DataError: the file cannot be read, or its input takes other images.
    """
    path = spec.path(name)
    session = open_session(spec, path)
    source = select_tensor(session.get_inputs(), spec.input_name, "input_name", spec)
    output = select_tensor(session.get_outputs(), spec.output_name, "output_name", spec)
    if source.type != "tensor(float)":
        raise DataError(f"{path} reads {source.type}, expected tensor(float); export it in float32")

    def score_batch(pixels: NDArray[np.float32]) -> NDArray[Any]:
        return np.asarray(session.run([output.name], {source.name: pixels})[0])

    return input_layout(source.shape, spec).teacher(score_batch, spec, CHUNK)


def open_session(spec: TeacherSpec, path: Path) -> Any:
    """A session that opens no file, and whose tensors have no more bytes than the owner allows.

    Raises:
        SettingsError: onnxruntime is not installed.
        DataError: the file cannot be read.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime
    except ImportError as error:
        raise SettingsError("onnxruntime is not installed; install fedkd[onnx]") from error
    limit = memory_limit(spec)
    content = read_regular_file(path, min(limit, MAX_MODEL_BYTES))
    files = read_weight_files(parse_model(content, path), path, limit)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # what goes wrong is raised, too
    # Onnxruntime gets bytes, and would look for a missing file in the working directory.
    options.add_external_initializers_from_files_in_memory(
        list(files), list(files.values()), [len(content) for content in files.values()]
    )
    memory = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    # Its next session takes this arena, and keeps it; 1 is growth by what is asked for.
    arena = onnxruntime.OrtArenaCfg({"max_mem": limit, "arena_extend_strategy": 1})
    try:
        onnxruntime.create_and_register_allocator(memory, arena)
        options.add_session_config_entry("session.use_env_allocators", "1")
        return onnxruntime.InferenceSession(
            content,
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=["ConstantFolding"],
        )
    except Exception as error:  # onnxruntime's errors have no common root but this
        raise DataError(
            f"{path} cannot be opened as ONNX ({type(error).__name__}); export it again"
        ) from error


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
