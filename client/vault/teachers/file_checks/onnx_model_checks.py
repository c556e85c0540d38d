"""Checks of an ONNX model before onnxruntime reads it, and the files that its weights are in.

Refused are tensors of more numbers than there are bytes for, sparse tensors (onnxruntime makes them
dense at once), functions that multiply when they are put in their callers' places, operators that
onnxruntime does not have, and weights in any file that does not lie beside the model.
"""

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from fedkd.client.vault.regular_files import read_regular_file
from fedkd.errors import DataError

KNOWN_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
"""Of operators that onnxruntime has built in."""
OTHER_FORMATS = {
    b"PK\x03\x04": "a zip archive",
    b"\x80\x02": "a pickle, which would run code",
    b"\x80\x03": "a pickle, which would run code",
    b"\x80\x04": "a pickle, which would run code",
    b"\x80\x05": "a pickle, which would run code",
    b"\x89HDF": "HDF5",
}
"""By how a file begins."""
MAX_FUNCTION_NODES = 10_000
"""Nodes that functions may add, where the file itself has fewer than a tenth of that."""
MAX_GROWTH = 10
"""Or so many for each node of the file."""
LOOSE_PACKING = 4
"""Numbers in a byte of raw data, of the smallest types."""
INLINE = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")


def parse_model(content: bytes, path: Path) -> Any:
    """The ``onnx.ModelProto`` in a file, checked; weights in other files are not read yet.

    Raises:
        DataError: it is no ONNX, or one of what the module refuses.
    """
    import onnx

    for beginning, kind in OTHER_FORMATS.items():
        if content.startswith(beginning):
            raise DataError(f"{path} is {kind} and no ONNX; export the network with torch.onnx")
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's own, which has no public name
        raise DataError(f"{path} is no ONNX ({type(error).__name__}); export it again") from error
    _check_operators(model, path)
    for graph in _graphs(model):
        if graph.sparse_initializer:
            raise DataError(f"{path} has sparse weights; export them dense")
        for tensor in graph.initializer:
            _check_tensor(tensor, path, may_be_elsewhere=graph is model.graph)
    for node in _all_nodes(model):
        _check_constants(node, path)
    return model


def read_weight_files(model: Any, path: Path, limit: int) -> dict[str, bytes]:
    """What lies in other files of a model's weights: their names, and their content.

    Args:
        model: as `parse_model` returned it.
        path: of the model.
        limit: most bytes of all of them together.

    Raises:
        DataError: a name leads out of the model's folder, or to no regular file; a file is missing
            or too short for its tensors.
    """
    files: dict[str, bytes] = {}
    for tensor in model.graph.initializer:
        if tensor.data_location != tensor.EXTERNAL:
            continue
        place = {entry.key: entry.value for entry in tensor.external_data}
        name = place.get("location", "")
        if name not in files:
            left = limit - sum(map(len, files.values()))
            files[name] = _read_beside(path, name, left)
        offset, length = (_whole_number(place.get(key, "0")) for key in ("offset", "length"))
        need = max(length, math.ceil(math.prod(tensor.dims) / LOOSE_PACKING))
        if offset < 0 or length < 0 or offset + need > len(files[name]):
            raise DataError(
                f"{path} expects {tensor.name!r} at {offset} + {need} in {name}, which has "
                f"{len(files[name])} bytes; copy both files of one export"
            )
    return files


def _read_beside(path: Path, name: str, limit: int) -> bytes:
    if not name or name in (".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise DataError(
            f"{path} keeps weights in {name!r}; expected the name of a file beside it, without a "
            f"folder; export it again"
        )
    beside = path.parent / name
    if not beside.is_symlink() and not beside.exists():
        raise DataError(f"{path} keeps weights in {name}, which is missing; copy it there too")
    return read_regular_file(beside, limit, follow_links=False)


def _whole_number(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() else -1


def _check_constants(node: Any, path: Path) -> None:
    for attribute in node.attribute:
        if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
            raise DataError(f"{path} has sparse constants; export them dense")
        constants = [attribute.t] if attribute.HasField("t") else []
        for tensor in (*constants, *attribute.tensors):
            _check_tensor(tensor, path, may_be_elsewhere=False)


def _check_tensor(tensor: Any, path: Path, may_be_elsewhere: bool) -> None:
    if tensor.data_location == tensor.EXTERNAL:
        if not may_be_elsewhere:
            raise DataError(f"{path} keeps a constant in another file; export it again")
        return
    numbers = math.prod(tensor.dims)
    stored = max(len(getattr(tensor, field)) for field in INLINE)
    stored = LOOSE_PACKING * max(len(tensor.raw_data), stored)
    if any(side < 0 for side in tensor.dims) or numbers > stored:
        raise DataError(
            f"{path} claims {list(tensor.dims)} numbers of {tensor.name!r} and has no more than "
            f"{stored}; export it again"
        )


def _graphs(model: Any) -> Iterator[Any]:
    yield model.graph
    for node in _all_nodes(model):
        yield from _subgraphs(node)


def _subgraphs(node: Any) -> Iterator[Any]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _all_nodes(model: Any) -> Iterator[Any]:
    for nodes in (model.graph.node, *(function.node for function in model.functions)):
        yield from _nested(nodes)


def _nested(nodes: Iterable[Any]) -> Iterator[Any]:
    """Nodes, and those of the graphs in their attributes; protobuf bounds how deep that goes."""
    for node in nodes:
        yield node
        for graph in _subgraphs(node):
            yield from _nested(graph.node)


def _check_operators(model: Any, path: Path) -> None:
    """Refuse unknown operators, and functions that multiply or call themselves."""
    own = {(each.domain, each.name): list(_nested(each.node)) for each in model.functions}
    sizes: dict[tuple[str, str], int] = {}

    def size(nodes: Iterable[Any], callers: frozenset[tuple[str, str]]) -> int:
        total = 0
        for node in nodes:
            name = (node.domain, node.op_type)
            if name in callers:
                raise DataError(f"{path} has a function {name[1]} that calls itself; export again")
            if name in own and name not in sizes:
                sizes[name] = size(own[name], callers | {name})
            if name not in own and node.domain not in KNOWN_DOMAINS:
                raise DataError(
                    f"{path} needs the operator {node.domain}:{node.op_type}, which onnxruntime "
                    f"does not have; export it with standard operators"
                )
            total += 1 + sizes.get(name, 0)
        return total

    try:
        total = size(_nested(model.graph.node), frozenset())
    except RecursionError:
        raise DataError(f"{path} nests functions too deep; export it without them") from None
    nodes = sum(1 for _ in _all_nodes(model))
    if total > max(MAX_FUNCTION_NODES, MAX_GROWTH * nodes):
        raise DataError(
            f"{path} has {nodes} nodes that functions make {total} of; export it without them"
        )
