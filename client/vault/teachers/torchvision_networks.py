"""Teacher format ``torchvision:NAME``: its classifiers, with weights from a safetensors file.

torchvision publishes weights as pickles, which are not read here: whoever wants those converts
them once, as docs/teachers.md says. Nothing is downloaded.
"""

import difflib

from fedkd.client.vault.teachers.adapters.torch_module_teacher import (
    load_weights,
    module_teacher,
    preserving_rng_state,
)
from fedkd.client.vault.teachers.teacher_spec import TeacherSpec
from fedkd.errors import DataError, SettingsError
from fedkd.models import ModuleTeacher


def open_torchvision(spec: TeacherSpec, name: str) -> ModuleTeacher:
    """See the module.

    Raises:
        SettingsError: no such classifier, options that it does not know, or no weights named.
        DataError: the weights do not fit.
    """
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        close = ", ".join(difflib.get_close_matches(name, known)) or "torchvision.models"
        raise SettingsError(f"torchvision has no classifier {name!r}; see {close}")
    if spec.weights is None:
        raise DataError(
            f"{spec.source} needs weights, a .safetensors file; torchvision's own are pickles, "
            f"which docs/teachers.md shows how to convert"
        )
    try:
        network = preserving_rng_state(
            lambda: models.get_model(name, weights=None, num_classes=spec.classes, **spec.options)
        )
    except (TypeError, ValueError) as error:
        raise SettingsError(f"{spec.source}: {error}; correct its options") from error
    load_weights(network, spec.path(spec.weights))
    return module_teacher(network, spec)
