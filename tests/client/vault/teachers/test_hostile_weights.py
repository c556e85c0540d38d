"""Files of weights that lie about themselves, and things that are no files at all."""

import json
import os
import pickle
import struct
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save, save_file

from fedkd.client.institution.student_weight_loading import load_weights as load_student
from fedkd.client.institution.student_weight_loading import open_student
from fedkd.client.vault.regular_files import read_regular_file
from fedkd.client.vault.teachers.formats import open_teacher
from fedkd.client.vault.teachers.teacher_spec import TeacherSpec
from fedkd.errors import DataError
from fedkd.models import build_network
from tests.support.limited_process import LimitedProcess

SMALL = (1, 8, 8)


def weights() -> dict[str, torch.Tensor]:
    return {
        key: value.clone() for key, value in build_network("cnn", 10, SMALL, 0).state_dict().items()
    }


def with_header(header: Any, data: bytes, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def parts() -> tuple[dict[str, Any], bytes]:
    """Header and data of an honest file."""
    content = save(weights())
    (length,) = struct.unpack_from("<Q", content)
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def lies() -> dict[str, bytes]:
    """Safetensors that are none; each would be refused for its own reason."""
    header, data = parts()
    name, bias = "head.bias", header["head.bias"]
    begin, end = bias["data_offsets"]
    return {
        "length": with_header(header, data, 1 << 62),
        "long header": with_header(b" " * (99 << 20), data),
        "deep header": with_header(b"[" * 200_000, data),
        "shape": with_header({**header, name: {**bias, "shape": [1 << 40]}}, data),
        "overflow": with_header({**header, name: {**bias, "shape": [1 << 62, 1 << 62]}}, data),
        "overlap": with_header(
            {**header, name: {**bias, "data_offsets": [begin - 4, end - 4]}}, data
        ),
        "outside": with_header(
            {**header, name: {**bias, "data_offsets": [len(data), len(data) + 40]}}, data
        ),
        "negative": with_header({**header, name: {**bias, "data_offsets": [-40, 0]}}, data),
        "cut": with_header(header, data[:-1]),
        "more": with_header(header, data + bytes(1)),
        "kind": with_header({**header, name: {**bias, "dtype": "PICKLE"}}, data),
        "pickle": pickle.dumps(weights()),
        "empty": b"",
    }


@pytest.mark.parametrize("name", lies())
def test_safetensors_that_lie_are_refused(
    tmp_path: Path, limited: LimitedProcess, name: str
) -> None:
    content = lies()[name]
    (tmp_path / "w.safetensors").write_bytes(content)
    found = limited.open("fedkd:cnn", tmp_path, weights="w.safetensors")
    found.refused("w.safetensors ", megabytes=60)
    with pytest.raises(DataError, match="not the weights of that model"):
        load_student(build_network("cnn", 10, SMALL, 0), content)


def test_a_file_far_larger_than_the_network_is_not_read(
    tmp_path: Path, limited: LimitedProcess
) -> None:
    with (tmp_path / "w.safetensors").open("wb") as file:
        file.truncate(1 << 40)  # a terabyte that takes no disk
    for source in ("fedkd:cnn", "torchvision:resnet18"):
        found = limited.open(source, tmp_path, weights="w.safetensors", shape=[3, 32, 32])
        found.refused("it has 1099511627776 bytes, and the weights of this network at most")
    for source in ("onnx", "skops", "pt2"):
        words = {"trusted": True} if source == "pt2" else {}
        found = limited.open(f"{source}:w.safetensors", tmp_path, **words)
        found.refused("has 1099511627776 bytes, expected at most", megabytes=60)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(
    tmp_path: Path, limited: LimitedProcess, value: float
) -> None:
    """Also where no answer to the first questions shows it."""
    own = weights()
    own["body.1.1.running_var"][0] = value
    save_file(own, tmp_path / "w.safetensors")
    found = limited.open("fedkd:cnn", tmp_path, weights="w.safetensors")
    found.refused("has numbers in body.1.1.running_var that are not finite")


@pytest.mark.parametrize(
    ("content", "kind"),
    [(pickle.dumps(weights()), "a pickle, which would run code"), (b"PK\x03\x04", "a zip archive")],
)
def test_an_onnx_file_that_is_something_else_says_what(
    tmp_path: Path, limited: LimitedProcess, content: bytes, kind: str
) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    limited.open("onnx:model.onnx", tmp_path).refused(f"model.onnx is {kind} and no ONNX")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("onnx:{}", {}),
        ("skops:{}", {}),
        ("pt2:{}", {"trusted": True}),
        ("fedkd:cnn", {"weights": "{}"}),
    ],
)
def test_what_is_no_file_is_refused_at_once(
    tmp_path: Path, limited: LimitedProcess, source: str, words: dict[str, Any]
) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name, kind in (("pipe", "a named pipe"), ("zero", "a device"), (".", "a folder")):
        given = {key: v.format(name) if isinstance(v, str) else v for key, v in words.items()}
        found = limited.open(source.format(name), tmp_path, **given)
        found.refused(f"is {kind}, expected a regular file", megabytes=60)
    limited.open(
        source.format("none"),
        tmp_path,
        **{**words, **({"weights": "none"} if "weights" in words else {})},
    ).refused("No such file")


def test_a_student_s_file_is_a_regular_one_of_the_network_s_size(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, message in ((tmp_path / "pipe", "a named pipe"), (Path("/dev/zero"), "a device")):
        with pytest.raises(DataError, match=f"is {message}, expected a regular file"):
            open_student(path)
    notes = json.dumps({"student": "cnn", "classes": 10, "shape": "1x8x8"})
    own, path = weights(), tmp_path / "student.safetensors"
    save_file(own, path, metadata={"fedkd": notes})
    assert torch.equal(open_student(path).network.state_dict()["head.bias"], own["head.bias"])
    with path.open("ab") as file:
        file.truncate(1 << 32)  # 4 GiB that take no disk
    with pytest.raises(DataError, match="is no student of fedkd's"):
        open_student(path)


def test_what_was_checked_is_what_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is replaced by another after it was read, and before its numbers are used."""
    path = tmp_path / "w.safetensors"
    first, second = weights(), weights()
    first["head.bias"].fill_(1.0)
    second["head.bias"].fill_(2.0)
    save_file(first, path)
    from fedkd.client.vault.teachers.adapters import torch_module_teacher

    load = torch_module_teacher.load
    replaced = threading.Event()

    def replacing(content: bytes) -> dict[str, torch.Tensor]:
        save_file(second, path)
        replaced.set()
        return load(content)

    monkeypatch.setattr(torch_module_teacher, "load", replacing)
    teacher: Any = open_teacher(TeacherSpec("fedkd:cnn", SMALL, path, classes=10))
    assert replaced.is_set()
    assert teacher.module.state_dict()["head.bias"].tolist() == [1.0] * 10


def test_a_file_that_is_cut_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(100))
    assert read_regular_file(path, 100) == bytes(100)
    with pytest.raises(DataError, match="has 100 bytes, expected at most 99"):
        read_regular_file(path, 99)
    fstat = os.fstat

    def cutting(descriptor: int) -> os.stat_result:
        status = fstat(descriptor)
        os.truncate(path, 50)
        return status

    monkeypatch.setattr(os, "fstat", cutting)
    with pytest.raises(DataError, match="changed while it was read"):
        read_regular_file(path, 100)
