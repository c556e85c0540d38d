"""Archives of teachers that grow, lie about sizes or hide code are refused before they do harm."""

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from skops.io import dump

from fedkd.models import build_network
from tests.support.limited_process import LimitedProcess

SMALL = (1, 8, 8)
Change = Callable[[Any], None]
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning:torch")


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.mark,))


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An honest archive of torch.export."""
    path = tmp_path_factory.mktemp("archive") / "cnn.pt2"
    batch = torch.export.Dim("batch", min=1)
    network = build_network("cnn", 10, SMALL, 0).eval()
    program = torch.export.export(network, (torch.zeros(2, *SMALL),), dynamic_shapes=({0: batch},))
    torch.export.save(program, path)
    return path


@pytest.fixture(scope="module")
def estimator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An honest file of skops."""
    path = tmp_path_factory.mktemp("estimator") / "logistic.skops"
    images = np.random.default_rng(0).random((60, 64))
    dump(LogisticRegression(max_iter=300).fit(images, np.arange(60) % 10), path)
    return path


def rewritten(source: Path, target: Path, record: str, change: Change) -> None:
    """A copy of an archive in which a record of JSON is changed in place."""
    with zipfile.ZipFile(source) as read, zipfile.ZipFile(target, "w") as written:
        for name in read.namelist():
            content = read.read(name)
            if name.endswith(record):
                value = json.loads(content)
                change(value)
                content = json.dumps(value).encode()
            written.writestr(name, content)


def replaced(source: Path, target: Path, record: str, content: bytes) -> None:
    """A copy of an archive in which records have another content."""
    with zipfile.ZipFile(source) as read, zipfile.ZipFile(target, "w") as written:
        for name in read.namelist():
            written.writestr(name, content if name.endswith(record) else read.read(name))


def zeros(path: Path, *names: str, megabytes: int = 128) -> None:
    """Records of nothing but zeros, which are packed to a thousandth."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for name in names:
            with made.open(name, "w") as record:
                for _ in range(megabytes):
                    record.write(bytes(1 << 20))
    assert path.stat().st_size < 1 << 22


def test_an_archive_of_torch_that_grows_is_refused(tmp_path: Path, limited: LimitedProcess) -> None:
    zeros(tmp_path / "bomb.pt2", "model/archive_version", "model/data/weights/weight_0")
    found = limited.open("pt2:bomb.pt2", tmp_path, trusted=True)
    found.refused("grows when it is unpacked", megabytes=100)


def test_a_skops_file_that_grows_is_refused(tmp_path: Path, limited: LimitedProcess) -> None:
    zeros(tmp_path / "bomb.skops", "schema.json", megabytes=1024)
    found = limited.open("skops:bomb.skops", tmp_path)
    found.refused("would unpack to 1073741824 bytes", megabytes=100)


def test_many_entries_take_no_more_memory_than_is_given(
    tmp_path: Path, limited: LimitedProcess
) -> None:
    """A directory of a million entries of 50 bytes each, which become objects of 500."""
    entry = b"PK\x01\x02" + bytes(24) + (1).to_bytes(2, "little") + bytes(16) + b"a"
    count = 1_000_000
    directory = entry * count
    end = b"PK\x05\x06" + bytes(4) + (65535).to_bytes(2, "little") * 2
    end += len(directory).to_bytes(4, "little") + bytes(4) + bytes(2)
    for name in ("many.skops", "many.pt2"):
        (tmp_path / name).write_bytes(directory + end)
        words = {"trusted": True} if name.endswith("pt2") else {}
        found = limited.open(f"{name.rpartition('.')[2]}:{name}", tmp_path, memory=0.25, **words)
        found.refused("takes more than 0.25 GiB")


def test_honest_archives_are_opened(
    archive: Path, estimator: Path, limited: LimitedProcess
) -> None:
    assert limited.open(f"pt2:{archive}", archive.parent, trusted=True).error == ""
    assert limited.open(f"skops:{estimator}", estimator.parent).error == ""


def sized(value: dict[str, Any], sizes: list[int], path: str | None = None) -> None:
    entry = value["config"]["head.bias"]
    entry["tensor_meta"]["sizes"] = [{"as_int": side} for side in sizes]
    entry["tensor_meta"]["strides"] = [{"as_int": 0} for _ in sizes]
    entry["path_name"] = path or entry["path_name"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: sized(config, [1 << 20, 1 << 20]), "numbers of 'head.bias'"),
        (lambda config: sized(config, [1 << 32]), "numbers of 'head.bias'"),
        (lambda config: sized(config, [-1]), "numbers of 'head.bias'"),
        (lambda config: sized(config, [10], "../../../../etc/passwd"), "has 0 bytes of it"),
        (lambda config: sized(config, [1 << 40], "weight_99"), "has 0 bytes of it"),
        (
            lambda config: config["config"]["head.bias"].update(use_pickle=True),
            "could only be read by running code",
        ),
        (lambda config: config.update(config=[1]), "no readable archive"),
    ],
)
def test_a_table_of_tensors_that_lies_is_refused(
    archive: Path, tmp_path: Path, limited: LimitedProcess, change: Change, message: str
) -> None:
    rewritten(archive, tmp_path / "bad.pt2", "model_weights_config.json", change)
    limited.open("pt2:bad.pt2", tmp_path, trusted=True).refused(message)


def test_an_empty_record_makes_no_tensor_of_zeros(
    archive: Path, tmp_path: Path, limited: LimitedProcess
) -> None:
    """Torch's reader makes zeros of whatever size where a record is empty."""
    rewritten(
        archive,
        tmp_path / "a.pt2",
        "weights_config.json",
        lambda c: sized(c, [1 << 30], "weight_9"),
    )
    replaced(tmp_path / "a.pt2", tmp_path / "b.pt2", "/weight_9", b"")
    limited.open("pt2:b.pt2", tmp_path, trusted=True).refused("has 0 bytes of it")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cnn/../../evil", "could only be read by running code"),
        ("../data/weights/weight_77", "no or several folders"),
        ("/etc/weight_77", "could only be read by running code"),
        ("other/data/weights/weight_77", "no or several folders"),
        ("cnn/data/weights/WEIGHT_0", "a record twice"),
        ("cnn/data/constants/custom_obj_0", "could only be read by running code"),
        ("cnn/data/weights/model.pt", "could only be read by running code"),
        ("cnn/extra/../data/sample_inputs/model.pt", "could only be read by running code"),
    ],
)
def test_records_of_other_names_are_refused(
    archive: Path, tmp_path: Path, limited: LimitedProcess, name: str, message: str
) -> None:
    rewritten(archive, tmp_path / "bad.pt2", "nothing", lambda _: None)
    with zipfile.ZipFile(tmp_path / "bad.pt2", "a") as made:
        made.writestr(name, pickle.dumps(Bomb(tmp_path / "exploded")))
    limited.open("pt2:bad.pt2", tmp_path, trusted=True).refused(message)
    assert not (tmp_path / "exploded").exists()


def writes(program: dict[str, Any], mark: Path) -> None:
    """Makes the first operator one that makes a file, of 400 bytes."""
    node = program["graph_module"]["graph"]["nodes"][0]
    node["target"] = "torch.ops.aten.from_file.default"
    node["inputs"] = [
        {"name": "filename", "arg": {"as_string": str(mark)}, "kind": 1},
        {"name": "shared", "arg": {"as_bool": True}, "kind": 1},
        {"name": "size", "arg": {"as_int": 100}, "kind": 1},
    ]


def calls(program: dict[str, Any], mark: Path) -> None:
    """Makes the first operator a call of os.mkdir, by way of torch's own import of os."""
    node = program["graph_module"]["graph"]["nodes"][0]
    node["target"] = "torch.os.mkdir"
    node["inputs"] = [{"name": "path", "arg": {"as_string": str(mark)}, "kind": 1}]


def evaluates(program: dict[str, Any], mark: Path) -> None:
    """Makes a size an expression that leaves a folder behind."""
    text = f"Symbol('s77', integer=True, positive=True) + 0*len([__import__('os').mkdir('{mark}')])"
    values = program["graph_module"]["graph"]["tensor_values"]
    for value in values.values():
        for side in value["sizes"]:
            if "as_expr" in side:
                side["as_expr"]["expr_str"] = text


def fills(program: dict[str, Any], _: Path) -> None:
    """Makes the first operator one that makes 4 GiB."""
    node = program["graph_module"]["graph"]["nodes"][0]
    node["target"] = "torch.ops.aten.full.default"
    node["inputs"] = [
        {"name": "size", "arg": {"as_ints": [1 << 30]}, "kind": 1},
        {"name": "fill_value", "arg": {"as_float": 0.0}, "kind": 1},
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (writes, "the operator 'torch.ops.aten.from_file.default', which its reader could run"),
        (calls, "the operator 'torch.os.mkdir', which its reader could run as code"),
        (evaluates, "which its reader could run as code"),
        (fills, "takes more than 0.25 GiB of memory"),
    ],
)
def test_a_program_that_runs_code_or_takes_memory_is_refused(
    archive: Path,
    tmp_path: Path,
    limited: LimitedProcess,
    change: Callable[[dict[str, Any], Path], None],
    message: str,
) -> None:
    mark = tmp_path / "made"
    rewritten(archive, tmp_path / "bad.pt2", "models/model.json", lambda p: change(p, mark))
    found = limited.open("pt2:bad.pt2", tmp_path, trusted=True, memory=0.25)
    assert not mark.exists(), "it ran"
    found.refused(message)


def test_guards_of_a_program_are_not_compiled(
    archive: Path, tmp_path: Path, limited: LimitedProcess
) -> None:
    mark = tmp_path / "made"
    code = f"__import__('os').mkdir('{mark}') is None or L['x'].shape[0] > 0"
    rewritten(
        archive, tmp_path / "bad.pt2", "models/model.json", lambda p: p.update(guards_code=[code])
    )
    assert limited.open("pt2:bad.pt2", tmp_path, trusted=True).error == ""
    assert not mark.exists(), "it ran"


def node(loader: str, kind: str, **rest: Any) -> dict[str, Any]:
    module = "numpy" if kind == "ndarray" else "builtins"
    return {"__class__": kind, "__module__": module, "__loader__": loader, **rest}


def skops_file(path: Path, schema: dict[str, Any], **members: bytes) -> None:
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("schema.json", json.dumps({**schema, "protocol": 2}))
        for name, content in members.items():
            made.writestr(f"{name}.npy", content)


def test_an_array_that_is_read_again_and_again_is_refused(
    tmp_path: Path, limited: LimitedProcess
) -> None:
    """4 MB that a thousand nodes read are 4 GB."""
    array = io.BytesIO()
    np.save(array, np.zeros(1_000_000, np.float32))
    each = node("NdArrayNode", "ndarray", type="numpy", file="a.npy")
    schema = node("ListNode", "list", content=[each] * 1000)
    skops_file(tmp_path / "bad.skops", schema, a=array.getvalue())
    found = limited.open("skops:bad.skops", tmp_path)
    found.refused("would read 4000128000 bytes", megabytes=100)


def test_a_schema_that_takes_for_ever_to_check_is_refused(
    tmp_path: Path, limited: LimitedProcess
) -> None:
    """Lists that hold the list before twice: skops visits 2 to the 60."""
    inner = node("ListNode", "list", content=[], __id__=1)
    for number in range(2, 60):
        again = {**inner, "content": []}
        inner = node("ListNode", "list", content=[inner, again], __id__=number)
    skops_file(tmp_path / "bad.skops", inner)
    limited.open("skops:bad.skops", tmp_path).refused("steps; save the estimator again")


def npy(shape: str, data: bytes, kind: str = "<f4") -> bytes:
    """A file of numpy's with whatever header."""
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


def test_arrays_that_lie_or_hold_a_pickle_are_refused(
    estimator: Path, tmp_path: Path, limited: LimitedProcess
) -> None:
    mark = tmp_path / "exploded"
    hidden = npy("(1,)", pickle.dumps([Bomb(mark)]), "|O")
    for content in (hidden, npy("(1073741824,)", bytes(8)), npy("(1099511627776,)", bytes(8))):
        replaced(estimator, tmp_path / "bad.skops", ".npy", content)
        found = limited.open("skops:bad.skops", tmp_path, memory=0.25)
        assert found.error == "DataError", found
        assert found.megabytes < 100
        assert "\n" not in found.message
    assert not mark.exists()


@pytest.mark.parametrize(
    "kind", [("os", "system"), ("builtins", "eval"), ("subprocess", "Popen"), ("posix", "system")]
)
def test_types_that_nobody_trusts_are_named_and_not_built(
    tmp_path: Path, limited: LimitedProcess, kind: tuple[str, str]
) -> None:
    module, name = kind
    function = {"__class__": name, "__module__": module, "__loader__": "FunctionNode"}
    skops_file(tmp_path / "bad.skops", node("ListNode", "list", content=[function]))
    limited.open("skops:bad.skops", tmp_path).refused(f"builds {module}.{name}; if these")
