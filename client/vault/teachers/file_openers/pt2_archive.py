"""Teacher format ``pt2:FILE``: the owner's own archive of torch.export; logits and gradients.

Torch's loader unpickles some records (example inputs, weights of special types, custom objects) and
evaluates expressions of the graph. So the owner has to state that the file is his (``trusted``).
Even then only records of plain numbers and JSON are loaded: example inputs are left out, an archive
with any other record is refused, and so is a program with an unknown operator
(`pt2_program_checks`). What the program computes may take any memory and time.
"""

import io
import json
import math
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fedkd.client.vault.regular_files import read_regular_file
from fedkd.client.vault.teachers.adapters.row_networks import row_network_teacher
from fedkd.client.vault.teachers.adapters.table_layout import TableLayout
from fedkd.client.vault.teachers.adapters.torch_module_teacher import module_teacher
from fedkd.client.vault.teachers.file_checks.memory_limit import memory_limit
from fedkd.client.vault.teachers.file_checks.pt2_program_checks import checked_program
from fedkd.client.vault.teachers.teacher_spec import TeacherSpec
from fedkd.errors import DataError, SettingsError
from fedkd.models import ModuleTeacher, RowNetworkTeacher

PROGRAM = "models/model.json"
PLAIN_RECORDS = re.compile(
    r"archive_format|archive_version|byteorder|\.data/(version|serialization_id)"
    r"|models/model\.json|data/(weights|constants)/model_(weights|constants)_config\.json"
    r"|data/weights/weight_\d+|data/constants/tensor_\d+"
)
"""Records, below the archive's root, that are read without unpickling."""
ROOT = re.compile(r"(?!\.)[\w.+ -]+")
"""The folder of all records: the name under which the archive was saved."""

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
    archive = strip_pickles(read_regular_file(path, memory_limit(spec)), path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of read-only buffers, which are torch's own
            program = torch.export.load(archive).module(check_guards=False)
    except Exception as error:  # torch says what is wrong with an archive in many ways
        raise DataError(
            f"{path} cannot be loaded ({type(error).__name__}); export it again with this torch, "
            f"{torch.__version__}"
        ) from error
    return module_teacher(ExportedProgram(program), spec)


def open_pt2_table(spec: TeacherSpec, name: str, layout: TableLayout) -> RowNetworkTeacher:
    """A program that reads rows in their own units, (B, D); see `open_pt2` for what it raises."""
    return row_network_teacher(open_pt2(spec, name), layout)


def strip_pickles(content: bytes, path: Path) -> io.BytesIO:
    """A copy of an archive with its plain records and nothing else.

    Args:
        content: of the archive.
        path: for errors.

    Raises:
        DataError: it is no archive, or has records that are not plain.
    """
    copy = io.BytesIO()
    try:
        with (
            zipfile.ZipFile(io.BytesIO(content)) as source,
            zipfile.ZipFile(copy, "w") as target,
        ):
            sizes = _record_sizes(source, len(content), path)
            for name in source.namelist():
                record = name.partition("/")[2]
                kept = b"" if record == EXAMPLE_INPUTS else source.read(name)
                if record.endswith("_config.json"):
                    _check_tensors(record, kept, sizes, path)
                target.writestr(name, _checked(kept, path) if record == PROGRAM else kept)
    except (DataError, MemoryError):
        raise
    except Exception as error:  # a damaged file fails wherever a reader happens to be
        raise DataError(
            f"{path} is no readable archive of torch.export; save it with torch.export.save"
        ) from error
    copy.seek(0)
    return copy


def _record_sizes(archive: zipfile.ZipFile, file_bytes: int, path: Path) -> dict[str, int]:
    """Bytes of every record, by its name below the root; all names are those of an archive."""
    names = archive.namelist()
    if len({name.lower() for name in names}) < len(names):  # torch's reader ignores case
        raise DataError(f"{path} has a record twice; export it again")
    # torch stores records as they are, so they are no larger than the file.
    if sum(record.file_size for record in archive.infolist()) > file_bytes:
        raise DataError(f"{path} grows when it is unpacked; save it with torch.export.save")
    sizes = {each.filename.partition("/")[2]: each.file_size for each in archive.infolist()}
    for record in sizes:
        if record != EXAMPLE_INPUTS and not PLAIN_RECORDS.fullmatch(record):
            raise _needs_code(path, record)
    roots = {name.partition("/")[0] for name in names}
    if len(roots) != 1 or not ROOT.fullmatch(next(iter(roots))):
        raise DataError(f"{path} has records in no or several folders; export it again")
    return sizes


def _check_tensors(record: str, content: bytes, sizes: Mapping[str, int], path: Path) -> None:
    """Refuse a table with a pickled tensor, or one of more numbers than its record has bytes."""
    config = json.loads(content.decode())["config"]
    for name, entry in config.items():
        if entry.get("use_pickle") is not False:
            raise _needs_code(path, record)
        held = sizes.get(f"{record.rpartition('/')[0]}/{entry['path_name']}", 0)
        numbers = [side.get("as_int") for side in entry["tensor_meta"]["sizes"]]
        whole = all(isinstance(side, int) and side >= 0 for side in numbers)
        if not whole or math.prod(numbers) > held:
            raise DataError(
                f"{path} claims {numbers} numbers of {name!r} and has {held} bytes of it; make its "
                f"tensors contiguous and export it again"
            )


def _checked(program: bytes, path: Path) -> bytes:
    try:
        return checked_program(program)
    except (UnicodeDecodeError, json.JSONDecodeError):
        raise
    except ValueError as error:
        raise DataError(
            f"{path} has {error}, which its reader could run as code; export plain networks with "
            f"torch.export.save"
        ) from None


def _needs_code(path: Path, record: str) -> DataError:
    return DataError(
        f"{path} has {record}, which could only be read by running code; export plain tensors with "
        f"torch.export.save"
    )
