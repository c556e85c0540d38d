"""A student's file is held against its own size before a network of it is built."""

import json
import struct
import tracemalloc
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

import fedkd.client.institution.student_weight_loading as module
from fedkd.client.institution.student_weight_loading import build_student, open_student
from fedkd.errors import DataError, SettingsError
from fedkd.models import build_network


def student(path: Path, **claims: object) -> Path:
    """A file as a run writes it, with other claims in its header."""
    network = build_network("cnn", 10, (1, 8, 8), seed=0)
    notes = {"student": "cnn", "classes": 10, "shape": "1x8x8"} | claims
    path.write_bytes(save(network.state_dict(), {"fedkd": json.dumps(notes)}))
    return path


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The devices on which networks are built."""
    devices: list[str] = []

    def building(*args: object, **named: object) -> torch.nn.Module:
        devices.append(str(torch.empty(0).device))
        return build_network(*args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "build_network", building)
    return devices


def test_an_honest_file_opens(tmp_path: Path) -> None:
    weights = open_student(student(tmp_path / "student.safetensors")).network.state_dict()
    truth = build_network("cnn", 10, (1, 8, 8), seed=0).state_dict()
    assert all(torch.equal(weights[name], truth[name]) for name in truth)


@pytest.mark.parametrize(
    "claims",
    [
        {"shape": "3x60000x60000"},
        {"shape": "3x60000x60000", "student": "mlp"},
        {"shape": "3x2000x2000", "student": "mlp"},
        {"shape": "0x8x8"},
        {"shape": "-1x8x8"},
        {"shape": f"1x1x{10**400}"},
        {"classes": 10**9},
        {"classes": 10_000, "student": "resnet18"},
        {"classes": 0},
        {"classes": float("inf")},
        {"student": "resnet34"},
    ],
)
def test_a_file_that_claims_more_than_it_holds_is_never_built(
    tmp_path: Path, claims: dict[str, object], built: list[str]
) -> None:
    tracemalloc.start()
    with pytest.raises(DataError, match="no student of fedkd's"):
        open_student(student(tmp_path / "student.safetensors", **claims))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert set(built) <= {"meta"}
    assert peak < 1 << 24


@pytest.mark.parametrize("length", [2**64 - 1, 2**40, 0, 7])
def test_a_header_of_another_length_is_refused(tmp_path: Path, length: int) -> None:
    path = student(tmp_path / "student.safetensors")
    path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8:])
    with pytest.raises(DataError, match="no student of fedkd's"):
        open_student(path)


def test_brackets_without_end_are_refused(tmp_path: Path) -> None:
    path, header = tmp_path / "student.safetensors", b"[" * 200_000
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(DataError, match="no student of fedkd's"):
        open_student(path)


def test_a_file_larger_than_any_student_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = student(tmp_path / "student.safetensors")
    monkeypatch.setattr(module, "MAX_FILE_BYTES", path.stat().st_size - 1)
    monkeypatch.setattr(Path, "read_bytes", lambda _: pytest.fail("it was read"))
    with pytest.raises(DataError, match="no student of fedkd's"):
        open_student(path)


def test_a_network_of_a_session_is_measured_before_it_is_built(built: list[str]) -> None:
    with pytest.raises(SettingsError, match="at most"):
        build_student("mlp", 10, (3, 60_000, 60_000))
    with pytest.raises(SettingsError, match="parameters; at most"):
        build_student("mlp", 10, (3, 2_300, 2_300))
    assert set(built) <= {"meta"}
