"""``fedkd:NAME``: one of our own networks, with weights from a safetensors file.

They scale images themselves and have a body and a head, so that they can say FEATURES too.
"""

from fedkd.client.vault.teachers.modules import load_weights, module_teacher
from fedkd.client.vault.teachers.spec import TeacherSpec
from fedkd.errors import SettingsError
from fedkd.models.networks import build
from fedkd.models.teacher import ModuleTeacher


def open_fedkd(spec: TeacherSpec, name: str) -> ModuleTeacher:
    """See the module.

    Raises:
        SettingsError: no such network, no weights named, or images too small for it.
        DataError: the weights do not fit.
    """
    if spec.weights is None:
        raise SettingsError(f"{spec.source} needs weights, a .safetensors file; name it")
    network = build(name, spec.classes, spec.shape, seed=0)
    load_weights(network, spec.path(spec.weights))
    return module_teacher(network, spec)
