"""Teacher format ``fedkd:NAME``: one of fedkd's networks, with weights from a safetensors file.

These networks normalise images themselves and have a body and a head, so they give FEATURES too.
"""

from pathlib import Path

from torch import nn

from fedkd.client.vault.teachers.adapters.table_layout import TableLayout
from fedkd.client.vault.teachers.adapters.torch_module_teacher import load_weights, module_teacher
from fedkd.client.vault.teachers.teacher_spec import TeacherSpec
from fedkd.errors import SettingsError
from fedkd.models import ModuleTeacher, build_network, build_table_network


def open_fedkd(spec: TeacherSpec, name: str) -> ModuleTeacher:
    """See the module.

    Raises:
        SettingsError: no such network, no weights named, or images too small for it.
        DataError: the weights do not fit.
    """
    weights = _weights(spec)
    network = build_network(name, spec.classes, spec.shape, seed=0)
    load_weights(network, weights)
    return module_teacher(network, spec)


def open_fedkd_table(spec: TeacherSpec, name: str, layout: TableLayout) -> ModuleTeacher:
    """A network that reads rows as they travel, with values in [0, 1].

    Numbers come as shares of their ranges, clipped.

    Raises:
        SettingsError: no such network for tables, or no weights named.
        DataError: the weights do not fit.
    """
    weights = _weights(spec)
    network = build_table_network(name, layout.outputs, layout.columns, seed=0)
    load_weights(network, weights)
    clipped = nn.Sequential(network, nn.Hardtanh(0.0, 1.0)) if layout.numbers else network
    return ModuleTeacher(clipped, layout.outputs)


def _weights(spec: TeacherSpec) -> Path:
    if spec.weights is None:
        raise SettingsError(f"{spec.source} needs weights, a .safetensors file; name it")
    return spec.path(spec.weights)
