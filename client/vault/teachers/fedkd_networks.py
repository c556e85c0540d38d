"""Teacher format ``fedkd:NAME``: one of fedkd's networks, with weights from a safetensors file.

These networks normalise images themselves and have a body and a head, so they give FEATURES too.
"""

from fedkd.client.vault.teachers.teacher_spec import TeacherSpec
from fedkd.client.vault.teachers.torch_module_teacher import load_weights, module_teacher
from fedkd.errors import SettingsError
from fedkd.models import ModuleTeacher, build_network


def open_fedkd(spec: TeacherSpec, name: str) -> ModuleTeacher:
    """See the module.

    Raises:
        SettingsError: no such network, no weights named, or images too small for it.
        DataError: the weights do not fit.
    """
    if spec.weights is None:
        raise SettingsError(f"{spec.source} needs weights, a .safetensors file; name it")
    network = build_network(name, spec.classes, spec.shape, seed=0)
    load_weights(network, spec.path(spec.weights))
    return module_teacher(network, spec)
