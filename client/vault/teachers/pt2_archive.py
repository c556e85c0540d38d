"""Teacher format ``pt2:FILE``: the owner's own archive of torch.export; logits and gradients.

Torch's loader unpickles some records (example inputs, weights of special types, custom objects) and
evaluates expressions of the graph. So the owner has to state that the file is his (``trusted``).
Even then only records of plain numbers and JSON are loaded: example inputs are left out, and an
archive with any other record is refused.
"""

import io
import json
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fedkd.client.vault.teachers.teacher_spec import TeacherSpec
from fedkd.client.vault.teachers.torch_module_teacher import module_teacher
from fedkd.errors import DataError, SettingsError
from fedkd.models import ModuleTeacher

PLAIN_RECORDS = re.compile(
    r"archive_format|archive_version|byteorder|\.data/(version|serialization_id)"
    r"|models/model\.json|data/(weights|constants)/model_(weights|constants)_config\.json"
    r"|data/weights/weight_\d+|data/constants/tensor_\d+"
)
"""Records, below the archive's root, that are read without unpickling."""

EXAMPLE_INPUTS = "data/sample_inputs/model.pt"
"""A pickle in every archive; it is not needed."""


class ExportedProgram(nn.Module):
    """An exported program as a module. It has no train and eval modes, and is never copied.

    Args:
        program: (B, C, H, W) -> (B, K).
    """

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        # In a tuple it is no submodule: an exported program refuses eval().
        self._program = (program.requires_grad_(False),)

    def __deepcopy__(self, _: dict[int, Any]) -> "ExportedProgram":
        return self

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) normalised -> (B, K)."""
        output: Tensor = self._program[0](x)
        return output


def open_pt2(spec: TeacherSpec, name: str) -> ModuleTeacher:
    """See the module.

    Raises:
        SettingsError: the owner has not set ``trusted``.
        DataError: it cannot be read, or only by unpickling.
    """
    if not spec.trusted:
        raise SettingsError(
            f"{spec.source}: torch's loader of such archives may run code; say trusted = true if "
            f"the file is your own"
        )
    path = spec.path(name)
    archive = strip_pickles(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of read-only buffers, which are torch's own
            program = torch.export.load(archive).module()
    except Exception as error:  # torch says what is wrong with an archive in many ways
        raise DataError(
            f"{path} cannot be loaded ({type(error).__name__}); export it again with this torch, "
            f"{torch.__version__}"
        ) from error
    return module_teacher(ExportedProgram(program), spec)


def strip_pickles(path: Path) -> io.BytesIO:
    """A copy of an archive with its plain records and nothing else.

    Raises:
        DataError: it is no archive, or has records that are not plain.
    """
    copy = io.BytesIO()
    try:
        with zipfile.ZipFile(path) as source, zipfile.ZipFile(copy, "w") as target:
            names = source.namelist()
            if len(set(names)) < len(names):
                raise DataError(f"{path} has a record twice; export it again")
            # torch stores records as they are, so they are no larger than the file.
            if sum(record.file_size for record in source.infolist()) > path.stat().st_size:
                raise DataError(f"{path} grows when it is unpacked; save it with torch.export.save")
            for name in names:
                record = name.partition("/")[2]
                content = b"" if record == EXAMPLE_INPUTS else source.read(name)
                if record != EXAMPLE_INPUTS and (
                    not PLAIN_RECORDS.fullmatch(record) or _pickled(record, content)
                ):
                    raise DataError(
                        f"{path} has {record}, which could only be read by running code; export "
                        f"plain tensors with torch.export.save"
                    )
                target.writestr(name, content)
    except (OSError, ValueError, RecursionError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path} is no readable archive of torch.export; save it with torch.export.save"
        ) from error
    copy.seek(0)
    return copy


def _pickled(record: str, content: bytes) -> bool:
    """Whether a table of tensors names one that is stored as a pickle."""
    if not record.endswith("_config.json"):
        return False
    config = json.loads(content).get("config", {})
    return any(entry.get("use_pickle") is not False for entry in config.values())
