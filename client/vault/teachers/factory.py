"""``factory:package.module:function``: the owner's own code makes the network or the estimator.

The function is called with ``options`` and returns an nn.Module, (B, C, H, W) -> (B, K), whose
weights are then read from a safetensors file, or a fitted scikit-learn classifier without one.
"""

import importlib
from typing import Any

from torch import nn

from fedkd.client.vault.teachers.estimator import estimator_teacher, is_classifier
from fedkd.client.vault.teachers.modules import load_weights, module_teacher, without_trace
from fedkd.client.vault.teachers.spec import TeacherSpec
from fedkd.errors import DataError, SettingsError
from fedkd.models.teacher import Teacher


def open_factory(spec: TeacherSpec, name: str) -> Teacher:
    """See the module.

    Raises:
        SettingsError: there is no such function.
        DataError: it fails, makes something else, or its weights do not fit.
    """
    made = _made(spec, name)
    if isinstance(made, nn.Module):
        if spec.weights is None:
            raise SettingsError(f"{spec.source} makes a network; give its weights, a .safetensors")
        load_weights(made, spec.path(spec.weights))
        return module_teacher(made, spec)
    if not is_classifier(made):
        raise DataError(
            f"{spec.source} returned {type(made).__name__}; expected an nn.Module, or a fitted "
            f"scikit-learn classifier with predict_proba"
        )
    if spec.weights is not None:
        raise SettingsError(f"{spec.source} makes a fitted estimator; take weights away")
    return estimator_teacher(made, spec)


def _made(spec: TeacherSpec, name: str) -> Any:
    module, colon, function = name.partition(":")
    try:
        factory = getattr(importlib.import_module(module), function) if colon else None
    except (ImportError, AttributeError, ValueError) as error:
        raise SettingsError(
            f"{spec.source}: {error}; install the package, or put its folder on PYTHONPATH"
        ) from error
    if not callable(factory):
        raise SettingsError(f"{spec.source}: expected factory:package.module:function")
    try:
        return without_trace(lambda: factory(**spec.options))
    except Exception as error:  # the owner's own code may raise anything
        raise DataError(
            f"{spec.source} raised {type(error).__name__}: {_line(error)}; correct it"
        ) from error


def _line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")
