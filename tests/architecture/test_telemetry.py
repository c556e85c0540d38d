"""What fedkd imports leaves no trace of telemetry in the user's home."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SERVER = """
import torch
from pathlib import Path
from fedkd.server.report.records.student_export import export_onnx
network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
print(export_onnx(network, Path("net.onnx"), (1, 2, 2), torch.Generator().manual_seed(0)))
"""
CLIENT = """
from fedkd.client.vault.teachers.formats import open_teacher
from fedkd.client.vault.teachers.teacher_spec import TeacherSpec
print(open_teacher(TeacherSpec("onnx:net.onnx", (1, 2, 2), classes=3)))
"""
OWN_MODULE = """
import fedkd
import onnxruntime
onnxruntime.SessionOptions()
"""


def files_in_home(code: str, folder: Path) -> list[str]:
    """What a program, run with ``folder`` as its home and working directory, leaves there."""
    folder.mkdir(exist_ok=True)
    unset = ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")  # ours were set when fedkd was imported
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= {"HOME": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]


def test_export_of_a_student_and_a_teacher_in_onnx_leave_nothing_in_the_home(
    tmp_path: Path,
) -> None:
    pytest.importorskip("onnxruntime")
    assert files_in_home(SERVER, tmp_path) == ["net.onnx"]
    assert files_in_home(CLIENT, tmp_path) == ["net.onnx"]


def test_a_program_that_imports_fedkd_before_onnxruntime_leaves_nothing_either(
    tmp_path: Path,
) -> None:
    pytest.importorskip("onnxruntime")
    if not files_in_home(OWN_MODULE.replace("import fedkd\n", ""), tmp_path / "without"):
        pytest.skip("this onnxruntime writes nothing by itself")
    assert files_in_home(OWN_MODULE, tmp_path / "with") == []
