"""Teacher format ``onnx:FILE`` for rows: one float input (N, D), or an input for each column.

skl2onnx makes both. Inputs of columns have their names; one of texts is given levels by their
names, one of numbers those that are numbers. Probabilities may come as a tensor, or as skl2onnx's
list of maps from class to probability. Limits are those of `onnx_file`.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedkd.client.vault.teachers.adapters.row_networks import row_network_teacher
from fedkd.client.vault.teachers.adapters.sklearn_estimator import class_places
from fedkd.client.vault.teachers.adapters.table_layout import Rows, TableLayout
from fedkd.client.vault.teachers.file_openers.onnx_file import (
    open_onnx,
    open_session,
    select_tensor,
)
from fedkd.client.vault.teachers.teacher_spec import TeacherSpec
from fedkd.errors import DataError
from fedkd.models import TableTeacher

NUMBER_TYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
}
"""Of an input for one column, besides texts."""
TEXTS = "tensor(string)"
MAPS = "seq(map"
"""How the type of skl2onnx's list of maps begins."""


def open_onnx_table(spec: TeacherSpec, name: str, layout: TableLayout) -> TableTeacher:
    """See the module.

    Raises:
        SettingsError: onnxruntime is not installed, or an output is not named.
        DataError: the file cannot be read, or reads other columns.
    """
    path = spec.path(name)
    session = open_session(spec, path)
    inputs = session.get_inputs()
    single = len(inputs) == 1 and (len(layout.columns) > 1 or inputs[0].name != _first(layout))
    outputs = session.get_outputs()
    maps = [one for one in outputs if one.type.startswith(MAPS)]
    if (single or spec.input_name is not None) and not maps and len(outputs) == 1:
        return row_network_teacher(open_onnx(spec, name), layout)
    output = _output(outputs, spec)
    feed = (
        _single_input(inputs[0], layout, spec) if single else _column_inputs(inputs, layout, spec)
    )

    def predict(rows: Rows) -> NDArray[Any]:
        said = session.run([output.name], feed(rows))[0]
        return _from_maps(said, layout, spec) if isinstance(said, list) else np.asarray(said)

    logits = not layout.numbers and not maps and spec.outputs == "logits"
    return TableTeacher(predict, layout.columns, layout.outputs, layout.numbers, logits=logits)


def _first(layout: TableLayout) -> str:
    return layout.columns[0].name


def _output(outputs: list[Any], spec: TeacherSpec) -> Any:
    """The output with the scores: named, or the only one of floats or maps."""
    scores = [
        one
        for one in outputs
        if one.type.startswith(MAPS) or one.type in ("tensor(float)", "tensor(double)")
    ]
    return select_tensor(scores, spec.output_name, "output_name", spec)


def _single_input(source: Any, layout: TableLayout, spec: TeacherSpec) -> Any:
    """Feeds for one input (N, D)."""
    if source.type not in ("tensor(float)", "tensor(double)"):
        raise DataError(f"{spec.source} reads {source.type}, expected floats; export it again")
    width = source.shape[1] if len(source.shape) == 2 else 0
    layout.all_places(width if isinstance(width, int) else len(layout.columns), spec.source)
    kind = NUMBER_TYPES[source.type]
    return lambda rows: {source.name: layout.numeric(rows).astype(kind)}


def _column_inputs(inputs: list[Any], layout: TableLayout, spec: TeacherSpec) -> Any:
    """Feeds for an input (N, 1) or (N,) of each column."""
    places = layout.places([one.name for one in inputs], spec.source)
    for one, place in zip(inputs, places, strict=True):
        if one.type not in NUMBER_TYPES and one.type != TEXTS:
            raise DataError(
                f"{spec.source} reads {one.type} for column {place}, expected texts, integers or "
                "floats; export it again"
            )
    texts = frozenset(one.name for one in inputs if one.type == TEXTS)

    def feed(rows: Rows) -> dict[str, NDArray[Any]]:
        natural, numeric = layout.natural(rows, texts), layout.numeric(rows)
        values = {}
        for one, place in zip(inputs, places, strict=True):
            if one.type == TEXTS:
                column = natural[one.name].astype(str).astype(object)
            else:
                column = numeric[:, place].astype(NUMBER_TYPES[one.type])
            values[one.name] = column[:, None] if len(one.shape) == 2 else column
        return values

    return feed


def _from_maps(said: list[Any], layout: TableLayout, spec: TeacherSpec) -> NDArray[np.float64]:
    """(N, K) from a map of classes to probabilities for each row."""
    known = list(said[0])
    places = class_places(known, layout.class_names, layout.outputs, spec.source)
    probabilities = np.zeros((len(said), layout.outputs))
    probabilities[:, places] = [[row[key] for key in known] for row in said]
    return probabilities
