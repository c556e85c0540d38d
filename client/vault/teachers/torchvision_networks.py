"""Teacher format ``torchvision:NAME``: its classifiers, with weights from a safetensors file.

torchvision publishes weights as pickles, which are not read here: whoever wants those converts
them once, as docs/teachers.md says. Nothing is downloaded.
"""

from fedkd.client.vault.teachers.adapters.torch_module_teacher import (
    load_weights,
    module_teacher,
    preserving_rng_state,
)
from fedkd.client.vault.teachers.teacher_spec import TeacherSpec
from fedkd.errors import DataError
from fedkd.models import ModuleTeacher, torchvision_factory


def open_torchvision(spec: TeacherSpec, name: str) -> ModuleTeacher:
    """See the module.

    Raises:
        SettingsError: no such classifier, options that it does not know, or images without colour.
        DataError: no weights are named, or they do not fit.
    """
    factory = torchvision_factory(name)
    if spec.weights is None:
        raise DataError(
            f"{spec.source} needs weights, a .safetensors file; torchvision's own are pickles, "
            f"which docs/teachers.md shows how to convert"
        )
    network = preserving_rng_state(lambda: factory(spec.classes, spec.shape, **spec.options))
    load_weights(network, spec.path(spec.weights))
    return module_teacher(network, spec)
