"""ONNX files that somebody made to read other files, or to take all memory."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.support.limited_process import LimitedProcess

HUGE = 1 << 40
"""Numbers that an attack asks for: 4 TiB."""
LARGE = 1 << 30
"""4 GiB: beyond the limit of these tests, and well within what a machine may have."""
STANDARD = [helper.make_opsetid("", 20)]
WEIGHTS = np.arange(640, dtype=np.float32).reshape(64, 10) / 640
LOGITS = WEIGHTS.sum(0)


def integers(name: str, *values: int) -> TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def model(
    nodes: Sequence[Any],
    tensors: Sequence[Any] = (),
    imports: Sequence[Any] = STANDARD,
    functions: Sequence[Any] = (),
) -> Any:
    """From images x (b, 1, 8, 8) to logits y (b, 10)."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 1, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", 10])],
        [numpy_helper.from_array(WEIGHTS, "W"), *tensors],
    )
    return helper.make_model(graph, opset_imports=imports, functions=functions, ir_version=9)


def linear(output: str = "y") -> list[Any]:
    return [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("MatMul", ["flat", "W"], [output]),
    ]


def plus(nodes: Sequence[Any], *tensors: Any) -> Any:
    """A linear classifier that adds the sum of what ``nodes`` make, c, to its logits."""
    rest = [
        helper.make_node("ReduceSum", ["c"], ["sum"], keepdims=0),
        helper.make_node("Add", ["m", "sum"], ["y"]),
    ]
    return model([*linear("m"), *nodes, *rest], tensors)


def elsewhere(location: str, *, length: int = 2560, dims: Sequence[int] = (64, 10)) -> Any:
    """A linear classifier whose weights are in another file."""
    made = model(linear())
    tensor = made.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.dims[:] = dims
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(length))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return made


def test_weights_beside_the_model_are_read_and_the_arena_changes_no_answer(
    tmp_path: Path, limited: LimitedProcess
) -> None:
    (tmp_path / "m.onnx.data").write_bytes(WEIGHTS.tobytes())
    onnx.save(elsewhere("m.onnx.data"), tmp_path / "m.onnx")
    (tmp_path / "whole.onnx").write_bytes(model(linear()).SerializeToString())
    for name in ("m.onnx", "whole.onnx"):
        found = limited.open(f"onnx:{name}", tmp_path, mean=[-1.0], std=[1.0])
        assert found.logits is not None, found
        np.testing.assert_allclose(found.logits[0], LOGITS, rtol=1e-5)


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("../x.data", "expected the name of a file beside it"),
        ("{folder}/x.data", "expected the name of a file beside it"),
        ("sub/../../x.data", "expected the name of a file beside it"),
        ("..", "expected the name of a file beside it"),
        ("", "expected the name of a file beside it"),
        ("link.data", "link.data is a symbolic link"),
        ("pipe.data", "pipe.data is a named pipe"),
        ("folder.data", "folder.data is a folder"),
        ("none.data", "keeps weights in none.data, which is missing; copy it there too"),
        ("short.data", "short.data, which has 40 bytes"),
        ("*/_ORT_MEM_ADDR_/*", "expected the name of a file beside it"),
    ],
)
def test_weights_come_from_files_beside_the_model_alone(
    tmp_path: Path, limited: LimitedProcess, location: str, message: str
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "x.data").write_bytes(WEIGHTS.tobytes())
    (folder / "link.data").symlink_to("../x.data")
    (folder / "short.data").write_bytes(bytes(40))
    (folder / "folder.data").mkdir()
    os.mkfifo(folder / "pipe.data")
    made = elsewhere(location.format(folder=tmp_path))
    (folder / "m.onnx").write_bytes(made.SerializeToString())
    limited.open("onnx:m.onnx", folder).refused(message)


def test_a_file_of_the_working_directory_is_no_weight(
    tmp_path: Path, limited: LimitedProcess
) -> None:
    """Onnxruntime is given bytes, and takes names in them as relative to where it works."""
    constant = elsewhere("LICENSE", length=400, dims=(100,)).graph.initializer[0]
    constant.name = "c0"
    nodes = [helper.make_node("Constant", [], ["c"], value=constant)]
    (tmp_path / "m.onnx").write_bytes(plus(nodes).SerializeToString())
    limited.open("onnx:m.onnx", tmp_path).refused("keeps a constant in another file")


def test_claims_of_more_numbers_than_bytes_are_refused(
    tmp_path: Path, limited: LimitedProcess
) -> None:
    node = helper.make_node("Identity", ["huge"], ["c"])
    for side in (1 << 15, 1 << 20):  # 4 GiB, 4 TiB
        lying = TensorProto(name="huge", data_type=1, dims=[side, side], raw_data=bytes(16))
        (tmp_path / "m.onnx").write_bytes(plus([node], lying).SerializeToString())
        limited.open("onnx:m.onnx", tmp_path).refused("claims [")
        (tmp_path / "x.data").write_bytes(bytes(2560))
        far = elsewhere("x.data", dims=(side, side), length=side * side * 4)
        (tmp_path / "m.onnx").write_bytes(far.SerializeToString())
        limited.open("onnx:m.onnx", tmp_path).refused("which has 2560 bytes")


@pytest.mark.parametrize("where", ["initializer", "constant"])
def test_sparse_tensors_are_refused(tmp_path: Path, limited: LimitedProcess, where: str) -> None:
    sparse = onnx.SparseTensorProto(dims=[1 << 15, 1 << 15])
    sparse.values.CopyFrom(numpy_helper.from_array(np.ones(1, np.float32), "c"))
    sparse.indices.CopyFrom(integers("indices", 0))
    if where == "constant":
        made = plus([helper.make_node("Constant", [], ["c"], sparse_value=sparse)])
    else:
        made = plus([])
        made.graph.sparse_initializer.append(sparse)
    (tmp_path / "m.onnx").write_bytes(made.SerializeToString())
    limited.open("onnx:m.onnx", tmp_path).refused("has sparse")


def body(*nodes: Any, carried: str | None = None, out: str) -> Any:
    """The body of a Loop that goes on for ever, unless its trip count says otherwise."""
    value = helper.make_tensor_value_info
    inputs = [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, [])]
    outputs = [value("on", TensorProto.BOOL, []), value(out, TensorProto.FLOAT, None)]
    if carried is not None:
        inputs.append(value(carried, TensorProto.FLOAT, [None]))
    return helper.make_graph(
        [*nodes, helper.make_node("Identity", ["go"], ["on"])], "body", inputs, outputs
    )


def hungry(name: str, numbers: int) -> Any:
    """A model that makes so many numbers of nothing when it runs, or before."""
    root = int(numbers**0.5)
    one = numpy_helper.from_array(np.zeros(1, np.float32), "one")
    go = numpy_helper.from_array(np.array(True), "go0")
    columns = [
        numpy_helper.from_array(np.zeros(shape, np.float32), key)
        for key, shape in (("A", (root, 1)), ("B", (1, root)))
    ]
    node = helper.make_node
    double = body(node("Concat", ["a", "a"], ["b"], axis=0), carried="a", out="b")
    scan = body(node("Expand", ["one", "many"], ["s"]), out="s")
    trips = numpy_helper.from_array(np.array(numbers.bit_length() - 1, np.int64), "trips")
    turns = numpy_helper.from_array(np.array(numbers >> 16, np.int64), "turns")
    return {
        "ConstantOfShape": lambda: plus(
            [node("ConstantOfShape", ["n"], ["c"])], integers("n", numbers)
        ),
        "Expand": lambda: plus([node("Expand", ["one", "n"], ["c"])], one, integers("n", numbers)),
        "Tile": lambda: plus([node("Tile", ["one", "n"], ["c"])], one, integers("n", numbers)),
        "Pad": lambda: plus([node("Pad", ["one", "n"], ["c"])], one, integers("n", 0, numbers)),
        "folded": lambda: plus([node("MatMul", ["A", "B"], ["c"])], *columns),
        "Range": lambda: plus(
            [node("Range", ["i0", "n", "i1"], ["r"]), node("Cast", ["r"], ["c"], to=1)],
            *(
                numpy_helper.from_array(np.array(value, np.int64), key)
                for key, value in (("i0", 0), ("n", numbers), ("i1", 1))
            ),
        ),
        "Loop": lambda: plus(
            [node("Loop", ["trips", "go0", "one"], ["c"], body=double)], one, trips, go
        ),
        "Loop that collects": lambda: plus(
            [node("Loop", ["turns", "go0"], ["c"], body=scan)],
            one,
            turns,
            go,
            integers("many", 1 << 16),
        ),
    }[name]()


@pytest.mark.parametrize("numbers", [LARGE, HUGE])
@pytest.mark.parametrize(
    "name",
    ["ConstantOfShape", "Expand", "Tile", "Pad", "Range", "folded", "Loop", "Loop that collects"],
)
def test_what_a_model_makes_when_it_runs_is_bounded(
    tmp_path: Path, limited: LimitedProcess, name: str, numbers: int
) -> None:
    if name == "folded" and numbers == HUGE:
        numbers = 1 << 36  # its two factors are in the file
    (tmp_path / "m.onnx").write_bytes(hungry(name, numbers).SerializeToString())
    found = limited.open("onnx:m.onnx", tmp_path, memory=0.25)
    own_bound = name == "Tile" and numbers == HUGE
    found.refused("Tile output" if own_bound else "takes more than 0.25 GiB of memory; see who")


def test_a_bound_stays_after_a_model_was_opened(tmp_path: Path, limited: LimitedProcess) -> None:
    """What is made depends on the image: nothing of black and white ones, and 1 GiB of a grey."""
    node = helper.make_node
    nodes = [
        node("ReduceMax", ["x"], ["shade"], keepdims=0),
        node("Sub", ["one", "shade"], ["rest"]),
        node("Mul", ["shade", "rest"], ["grey"]),
        node("Mul", ["grey", "scale"], ["wanted"]),
        node("Cast", ["wanted"], ["whole"], to=TensorProto.INT64),
        node("Reshape", ["whole", "line"], ["n"]),
        node("ConstantOfShape", ["n"], ["c"]),
    ]
    scalars = [
        numpy_helper.from_array(np.float32(value), key)
        for key, value in (("one", 1), ("scale", 1 << 30))
    ]
    (tmp_path / "m.onnx").write_bytes(
        plus(nodes, *scalars, integers("line", 1)).SerializeToString()
    )
    assert limited.open("onnx:m.onnx", tmp_path, memory=0.25).error == ""
    found = limited.open("onnx:m.onnx", tmp_path, memory=0.25, shade=0.5)
    assert "Available memory of" in found.message
    assert found.megabytes < 250
    assert limited.open("onnx:m.onnx", tmp_path, memory=1.5, shade=0.5).megabytes > 1000


def laughs(count: int) -> Any:
    """Functions of which each calls the one before twice: 2 to the count nodes."""
    imports = [*STANDARD, helper.make_opsetid("own", 1)]
    functions = []
    for place in range(count):
        if place == 0:
            nodes = [helper.make_node("Identity", ["a"], ["b"])]
        else:
            call = f"f{place - 1}"
            nodes = [
                helper.make_node(call, ["a"], ["c"], domain="own"),
                helper.make_node(call, ["c"], ["b"], domain="own"),
            ]
        functions.append(helper.make_function("own", f"f{place}", ["a"], ["b"], nodes, imports))
    last = helper.make_node(f"f{count - 1}", ["m"], ["y"], domain="own")
    return model([*linear("m"), last], imports=imports, functions=functions)


def test_functions_that_multiply_or_never_end_are_refused(
    tmp_path: Path, limited: LimitedProcess
) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(laughs(5).SerializeToString())
    assert limited.open("onnx:m.onnx", tmp_path).error == ""
    path.write_bytes(laughs(40).SerializeToString())
    limited.open("onnx:m.onnx", tmp_path).refused("nodes that functions make")
    endless = laughs(1)
    endless.functions[0].node[0].domain, endless.functions[0].node[0].op_type = "own", "f0"
    path.write_bytes(endless.SerializeToString())
    limited.open("onnx:m.onnx", tmp_path).refused("a function f0 that calls itself")


def test_operators_of_others_are_named(tmp_path: Path, limited: LimitedProcess) -> None:
    imports = [*STANDARD, helper.make_opsetid("evil.example", 1)]
    nodes = [*linear("m"), helper.make_node("Run", ["m"], ["y"], domain="evil.example")]
    (tmp_path / "m.onnx").write_bytes(model(nodes, imports=imports).SerializeToString())
    limited.open("onnx:m.onnx", tmp_path).refused("needs the operator evil.example:Run")
